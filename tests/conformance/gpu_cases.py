"""A recipe of each method, for merges on a GPU and on the CPU that are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from merge_core.methods import METHODS
from merge_core.records import SourceCheckpoint
from tests.conformance.method_cases import CASES, Case
from tests.support.checkpoints import write_checkpoint

SHAPES = {
    "embed.weight": (300, 260),
    "layers.0.mlp.weight": (24, 50),
    "layers.0.long.weight": (140_001,),
    "layers.0.norm.weight": (50,),
    "layers.1.conv.weight": (4, 5, 13),
    "scale": (),
    "empty": (0,),
}
"""Longer than a step of a reduction and shorter, odd, a single number, nothing at all."""


def _recipe(name: str, case: Case) -> dict[str, Any]:
    method = METHODS[name]
    weighted = any(each.name == "weight" for each in method.per_model())
    recipe = {
        "merge_method": name,
        "models": [
            {"model": model, "parameters": {"weight": 0.3 + 0.2 * place} if weighted else {}}
            for place, model in enumerate("abc"[: method.most_models])
        ],
        "parameters": case.pinned[0] if case.in_any_order is None else case.in_any_order,
    }
    return recipe | ({"base_model": "base"} if method.base == "required" else {})


RECIPES = {
    name: _recipe(name, case) for name, case in CASES.items() if not METHODS[name].calibration
}
SPECTRAL = {"iso_c", "iso_cts", "tsv_m", "star", "knots", "wudi"}
"""Decompositions differ in their last digits from library to library."""


def write_zoo(root: Path, dtype: torch.dtype) -> dict[str, SourceCheckpoint]:
    """A base and three experts, with a row that only one of them changed."""
    generator = torch.Generator().manual_seed(5)
    base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    zoo = {"base": base}
    for name in "abc":
        zoo[name] = {
            key: values + 0.05 * torch.randn(values.shape, generator=generator)
            for key, values in base.items()
        }
    zoo["b"]["layers.0.mlp.weight"][:4] = base["layers.0.mlp.weight"][:4]
    return {
        name: write_checkpoint(root / name, {key: each.to(dtype) for key, each in model.items()})
        for name, model in zoo.items()
    }
