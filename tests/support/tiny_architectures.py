"""Real models of many kinds, made small by their config classes and saved by transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_TEXT = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_TEXT, num_key_value_heads=2))


def gpt2() -> Any:
    """Conv1D matrices, a head tied to the embeddings."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=64,
        n_positions=32,
        n_embd=16,
        n_layer=3,
        n_head=4,
        bos_token_id=1,
        eos_token_id=2,
    )
    return GPT2LMHeadModel(config)


def bert() -> Any:
    """An encoder with a masked-language head tied to its embeddings."""
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(BertConfig(**_TEXT))


def mixtral() -> Any:
    """A mixture of experts: fused in memory, apart on disk."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        **_TEXT, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2
    )
    return MixtralForCausalLM(config)


def qwen_moe() -> Any:
    """Many experts and shared ones."""
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    config = Qwen2MoeConfig(
        **_TEXT,
        num_key_value_heads=2,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=12,
        shared_expert_intermediate_size=12,
    )
    return Qwen2MoeForCausalLM(config)


def llava() -> Any:
    """A vision tower, a projector and a language model."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    text = LlamaConfig(**_TEXT, num_key_value_heads=2)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_VISION), text_config=text, image_token_index=3
    )
    return LlavaForConditionalGeneration(config)


def qwen_vl() -> Any:
    """A vision tower whose layers are called blocks, rotary positions in three parts."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    rope = {"rope_type": "default", "mrope_section": [1, 1], "rope_theta": 10000.0}
    text = {**_TEXT, "num_key_value_heads": 2, "rope_parameters": rope, "tie_word_embeddings": True}
    vision = {"depth": 2, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "patch_size": 4}
    config = Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True)
    return Qwen2VLForConditionalGeneration(config)


def t5() -> Any:
    """Encoder and decoder that share their embeddings with each other and the head."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=24, num_layers=3, num_heads=4)
    return T5ForConditionalGeneration(config)


def vit() -> Any:
    """Images to classes: no vocabulary, no tokenizer."""
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(**_VISION, num_labels=5))


def clip() -> Any:
    """Two towers, and a scalar (the temperature)."""
    from transformers import CLIPConfig, CLIPModel

    return CLIPModel(CLIPConfig(text_config=_TEXT, vision_config=_VISION, projection_dim=8))


ARCHITECTURES: dict[str, Callable[[], Any]] = {
    make.__name__: make
    for make in (llama, gpt2, bert, mixtral, qwen_moe, llava, qwen_vl, t5, vit, clip)
}


def save_family(architecture: str, directory: Path) -> None:
    """A random `base` and its fine-tunes `one` and `two`, each saved by transformers."""
    torch.manual_seed(0)
    model = ARCHITECTURES[architecture]()
    origin = {name: tensor.clone() for name, tensor in model.named_parameters()}
    for seed, name in enumerate(("base", "one", "two")):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                step = 0.004 * torch.randn(parameter.shape, generator=generator)
                parameter.copy_(origin[key] + (step if name != "base" else 0.0))
        model.save_pretrained(directory / name)
