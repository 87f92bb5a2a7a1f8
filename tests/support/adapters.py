"""Small LoRA adapters written for tests, in the form that PEFT saves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Factors = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""A (r, in) and B (out, r) of each module."""


def random_factors(
    modules: Mapping[str, tuple[int, int]],
    rank: int | Mapping[str, int],
    *,
    seed: int = 0,
    scale: float = 0.1,
    dtype: torch.dtype = torch.float32,
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Factors for modules whose weights are (out, in)."""
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for module, (rows, columns) in modules.items():
        r = rank if isinstance(rank, int) else rank[module]
        a = torch.randn(r, columns, generator=generator, dtype=torch.float64) * scale
        b = torch.randn(rows, r, generator=generator, dtype=torch.float64) * scale
        factors[module] = (a.to(dtype), b.to(dtype))
    return factors


def write_adapter(
    directory: Path,
    factors: Factors,
    *,
    tensors: Mapping[str, torch.Tensor] | None = None,
    **settings: Any,
) -> Path:
    """Write an adapter; `tensors` are saved beside the factors under their own full names."""
    directory.mkdir(parents=True)
    saved = {}
    for module, (a, b) in factors.items():
        saved[f"base_model.model.{module}.lora_A.weight"] = a.contiguous()
        saved[f"base_model.model.{module}.lora_B.weight"] = b.contiguous()
    save_file({**saved, **(tensors or {})}, directory / "adapter_model.safetensors")
    ranks = {a.shape[0] for a, _ in factors.values()} or {8}
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "some/base",
        "bias": "none",
        "r": max(ranks),
        "lora_alpha": max(ranks),
        "target_modules": sorted(factors),
        "inference_mode": True,
    }
    (directory / "adapter_config.json").write_text(json.dumps(config | settings))
    return directory
