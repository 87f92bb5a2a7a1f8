"""Adapters that PEFT makes on a small Llama, as if after training, and what we make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from merge_core.checkpoints.sources import describe_adapter, with_adapter
from merge_core.files.digests import DigestMemo
from tests.support.checkpoints import run_recipe
from tests.support.tiny_llama import described

peft = pytest.importorskip("peft")

TARGETS = ["q_proj", "up_proj"]
MODULE = "model.layers.0.self_attn.q_proj"


def base_model(**settings: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 48}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, **settings))


def trained(model: Any, **settings: Any) -> Any:
    """An adapter on the model that is no longer where it started."""
    torch.manual_seed(5)
    usual = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS}
    config = peft.LoraConfig(**(usual | settings))
    adapted = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return adapted


def applied(base: Path, adapter: Path, out: Path) -> dict[str, torch.Tensor]:
    """What mergeflow makes of BASE+ADAPTER."""
    memo = DigestMemo(None)
    source = with_adapter("one", described(base), describe_adapter("lora", adapter, memo))
    run_recipe({"merge_method": "passthrough", "models": [{"model": "one"}]}, {"one": source}, out)
    return load_file(out / "model.safetensors")
