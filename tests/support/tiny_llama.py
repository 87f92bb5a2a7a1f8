"""A small checkpoint with every file that a real Llama has, and relatives of it, for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from merge_core.checkpoints.sources import describe_source
from merge_core.files.digests import DigestMemo
from merge_core.records import SourceCheckpoint

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "vocab_size": 32,
}
SHAPES = {
    "model.embed_tokens.weight": (32, 16),
    "model.layers.0.input_layernorm.weight": (16,),
    "model.layers.0.self_attn.q_proj.weight": (16, 16),
    "model.layers.0.mlp.up_proj.weight": (48, 16),
    "model.layers.1.input_layernorm.weight": (16,),
    "model.layers.1.self_attn.q_proj.weight": (16, 16),
    "model.layers.1.mlp.up_proj.weight": (48, 16),
    "model.norm.weight": (16,),
    "lm_head.weight": (32, 16),
}
TOKENS = [*"abcdefghijklmno", "ab", "cd"]
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def base_weights(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Random weights as a training run would leave them: norms near 1, matrices around 0."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randn(shape, generator=generator) * 0.05
            if len(shape) > 1
            else 1 + 0.01 * torch.randn(shape, generator=generator)
        ).to(dtype)
        for name, shape in SHAPES.items()
    }


def fine_tuned(
    weights: Mapping[str, torch.Tensor], seed: int, scale: float = 0.002
) -> dict[str, torch.Tensor]:
    """The weights a little further on, in a random direction."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return {
        name: (tensor.float() + scale * torch.randn(tensor.shape, generator=generator)).to(
            tensor.dtype
        )
        for name, tensor in weights.items()
    }


def tokenizer_json() -> dict[str, Any]:
    """A BPE tokenizer of a few letters, in the form that the tokenizers library writes."""
    special = ["<pad>", "<s>", "</s>"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": token, "special": True, **flags} for i, token in enumerate(special)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel"},
        "model": {
            "type": "BPE",
            "dropout": None,
            "vocab": {token: i for i, token in enumerate([*special, *TOKENS])},
            "merges": [["a", "b"], ["c", "d"]],
        },
    }


def write_llama(
    directory: Path,
    weights: Mapping[str, torch.Tensor],
    *,
    config: Mapping[str, Any] | None = None,
    tokenizer: Mapping[str, Any] | None = None,
    template: str | None = TEMPLATE,
    card: str | None = None,
) -> SourceCheckpoint:
    """Write a checkpoint directory; its reference is the directory's name."""
    directory.mkdir(parents=True)
    save_file(dict(weights), directory / "model.safetensors", metadata={"format": "pt"})
    _write_json(directory / "config.json", {**CONFIG, **(config or {})})
    _write_json(directory / "tokenizer.json", tokenizer or tokenizer_json())
    _write_json(directory / "tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>"})
    if template is not None:
        (directory / "chat_template.jinja").write_text(template)
    if card is not None:
        (directory / "README.md").write_text(card)
    return described(directory)


def described(directory: Path) -> SourceCheckpoint:
    """The checkpoint in a directory, called by the directory's name."""
    return describe_source(directory.name, directory, DigestMemo(None))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value))
