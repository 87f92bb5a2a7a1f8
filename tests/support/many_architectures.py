"""Text models of transformers of many kinds, each made tiny by its config class, for sweeps.

What makes them interesting is how their config says which layer is of which kind: by a list, by
indices, by a period, by a rule of the class, or not at all because all layers are alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

LAYERS = 4
_SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_LATENT = {
    "kv_lora_rank": 4,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 4,
    "num_key_value_heads": 4,
}
_INDEXED = {"index_n_heads": 2, "index_head_dim": 8, "index_topk": 4}
_MAMBA = {
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_d_state": 4,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 4,
}
_WINDOW = {"head_dim": 4, "sliding_window": 8}
_MIXED = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "Llama": {},
    "Mistral": {"sliding_window": 8},
    "Qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    "Qwen3": {"head_dim": 4},
    "Gemma": {"head_dim": 4},
    "Gemma2": _WINDOW,
    "Gemma3": {"config": "Gemma3TextConfig", **_WINDOW, "layer_types": _MIXED},
    "Phi": {},
    "Phi3": {"sliding_window": 8},
    "StableLm": {},
    "Olmo": {},
    "Olmo2": {},
    "Olmo3": {"sliding_window": 8},
    "Olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "Cohere": {},
    "Cohere2": {"sliding_window": 8, "sliding_window_pattern": 2},
    "Starcoder2": {"sliding_window": 8},
    "Granite": {},
    "GraniteMoe": _LOCAL_EXPERTS,
    "GraniteMoeHybrid": {
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "shared_intermediate_size": 24,
        "layer_types": ["mamba", "attention"] * 2,
        "mamba_expand": 2,
        **_MAMBA,
    },
    "Mixtral": _LOCAL_EXPERTS,
    "Qwen2Moe": {**_EXPERTS, "shared_expert_intermediate_size": 12, "decoder_sparse_step": 2},
    "Qwen3Moe": {**_EXPERTS, "head_dim": 4, "mlp_only_layers": [0, 2]},
    "DeepseekV2": {**_ROUTED, **_LATENT, "q_lora_rank": None},
    "DeepseekV3": {**_ROUTED, **_LATENT, "q_lora_rank": 4, "first_k_dense_replace": 2},
    "Glm4Moe": {**_ROUTED, "head_dim": 4},
    "Glm4": {"head_dim": 4},
    "Ernie4_5": {"head_dim": 4},
    "Ernie4_5_Moe": {
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_intermediate_size": 12,
        "moe_layer_start_index": 1,
    },
    "HunYuanDenseV1": {"head_dim": 4},
    "SmolLM3": {"no_rope_layer_interval": 2},
    "Exaone4": {"sliding_window": 8, "sliding_window_pattern": 2},
    "Lfm2": {"full_attn_idxs": [1, 3], "block_multiple_of": 8},
    "Jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "mamba_d_state": 4,
        "mamba_dt_rank": 2,
        "use_mamba_kernels": False,
    },
    "Bamba": {"attn_layer_indices": [1, 3], **_MAMBA},
    "FalconH1": {"mamba_d_ssm": 32, "head_dim": 4, **_MAMBA},
    "Zamba2": {
        "layers_block_type": ["mamba", "hybrid"] * 2,
        "mamba_d_state": 4,
        "n_mamba_heads": 4,
        "mamba_ngroups": 1,
        "chunk_size": 4,
        "num_mem_blocks": 1,
        "adapter_rank": 2,
        "attention_hidden_size": 32,
        "attention_head_dim": 8,
        "num_key_value_heads": 4,
    },
    "Qwen3Next": {
        **_EXPERTS,
        "head_dim": 4,
        "shared_expert_intermediate_size": 12,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 4,
        "linear_value_head_dim": 4,
        "layer_types": ["linear_attention", "full_attention"] * 2,
    },
    "Mamba2": {
        "num_heads": 4,
        "head_dim": 8,
        "state_size": 4,
        "n_groups": 1,
        "chunk_size": 4,
        "expand": 2,
    },
    "Nemotron": {},
    "GptOss": {**_LOCAL_EXPERTS, **_WINDOW},
    "Arcee": {},
    "SeedOss": {"head_dim": 4},
    "Apertus": {},
    "MiniMax": {**_LOCAL_EXPERTS, "head_dim": 4, "block_size": 4},
    "Bert": {"model": "BertForMaskedLM"},
    "ModernBert": {
        "model": "ModernBertForMaskedLM",
        "global_attn_every_n_layers": 2,
        "local_attention": 8,
    },
    "GPTNeo": {
        "num_hidden_layers": None,
        "num_attention_heads": None,
        "num_layers": LAYERS,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 2]],
        "window_size": 8,
    },
    "Llama4Text": {
        "model": "Llama4ForCausalLM",
        "head_dim": 4,
        "num_local_experts": 2,
        "intermediate_size_mlp": 24,
        "interleave_moe_layer_step": 2,
        "no_rope_layer_interval": 2,
        "attention_chunk_size": 8,
    },
    "NemotronH": {
        "hybrid_override_pattern": "M-*-",
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "ssm_state_size": 4,
        "n_groups": 1,
        "chunk_size": 4,
    },
    "DiffLlama": {},
    "GPT2": {
        "config": "GPT2Config",
        "model": "GPT2LMHeadModel",
        "scale_attn_by_inverse_layer_idx": True,
    },
    "OpenAIGPT": {"model": "OpenAIGPTLMHeadModel"},
    "Afmoe": {
        **_EXPERTS,
        **_WINDOW,
        "num_dense_layers": 1,
        "num_shared_experts": 1,
        "global_attn_every_n_layers": 2,
    },
    "Flint": {**_EXPERTS, **_WINDOW},
    "Mamba": {"state_size": 4, "expand": 2, "time_step_rank": 2},
    "RecurrentGemma": {
        "block_types": ["recurrent", "recurrent", "attention"],
        "attention_window_size": 8,
        "head_dim": 4,
        "lru_width": 16,
    },
    "Gemma3n": {
        "config": "Gemma3nTextConfig",
        **_WINDOW,
        "num_kv_shared_layers": 1,
        "vocab_size_per_layer_input": 64,
        "hidden_size_per_layer_input": 4,
        "laurel_rank": 2,
        "activation_sparsity_pattern": [0.0] * LAYERS,
        "layer_types": _MIXED,
    },
    "Gemma4Unified": {
        "config": "Gemma4UnifiedTextConfig",
        **_WINDOW,
        "layer_types": _MIXED,
        "per_layer_config": {layer: {"head_dim": 8} for layer in (0, 3)},
    },
    **{
        name: {**_ROUTED, **_LATENT, "q_lora_rank": 4, **_INDEXED}
        for name in ("DeepseekV32", "GlmMoeDsa")
    },
    "Dots1": {**_ROUTED, "head_dim": 4},
    "HYV3": {**_ROUTED, **_EXPERTS, "head_dim": 4},
    "ExaoneMoe": {**_EXPERTS, **_WINDOW, "first_k_dense_replace": 1, "n_group": 1},
    "MiniMaxM2": {**_LOCAL_EXPERTS, "head_dim": 4},
    "Qwen3_5": {
        "config": "Qwen3_5TextConfig",
        "head_dim": 4,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 4,
        "linear_value_head_dim": 4,
    },
    "BigBird": {"attention_type": "original_full"},
    "Rwkv": {"context_length": 64, "attention_hidden_size": 16},
    "Gemma4": {
        "config": "Gemma4TextConfig",
        **_WINDOW,
        "global_head_dim": 4,
        "vocab_size_per_layer_input": 64,
        "hidden_size_per_layer_input": 4,
        "layer_types": _MIXED,
    },
}
"""By the class's name before `Config` and `ForCausalLM`. `config` and `model` name the classes that
are called otherwise; None leaves a size out."""


def make_model(name: str, seed: int = 0, **changes: Any) -> Any:
    """A tiny model with weights large enough for every layer's kind to show in the logits.

    Raises:
        AttributeError: this version of transformers has no such class.
    """
    import transformers

    settings = {**_SIZES, **SETTINGS[name], **changes}
    config_class = getattr(transformers, settings.pop("config", f"{name}Config"))
    model_class = getattr(transformers, settings.pop("model", f"{name}ForCausalLM"))
    config = config_class(**{key: value for key, value in settings.items() if value is not None})
    torch.manual_seed(seed)
    model = model_class(config)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()
