"""A recipe of each method, for merges on a GPU and on the CPU that are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from merge_core.methods import METHODS
from merge_core.records import SourceCheckpoint
from tests.conformance.test_method_invariants import SYMMETRIC
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

_PAIRS: dict[str, dict[str, Any]] = {
    "slerp": {"t": 0.3},
    "nuslerp": {},
    "nearswap": {"t": 1e-2},
    "arcee_fusion": {},
    "passthrough": {"scale": 0.7},
}
_WITHOUT_BASE = ("linear", "multislerp", "karcher", "nuslerp")
_OF_ONE = ("slerp", "nearswap", "arcee_fusion", "passthrough")


def _recipe(method: str, parameters: dict[str, Any]) -> dict[str, Any]:
    names = "a" if method in _OF_ONE else "ab" if method in _PAIRS else "abc"
    weighted = any(each.name == "weight" for each in METHODS[method].per_model())
    recipe = {
        "merge_method": method,
        "models": [
            {"model": name, "parameters": {"weight": 0.3 + 0.2 * place} if weighted else {}}
            for place, name in enumerate(names)
        ],
        "parameters": parameters,
    }
    return recipe if method in _WITHOUT_BASE else recipe | {"base_model": "base"}


RECIPES = {
    method: _recipe(method, dict(parameters)) for method, parameters in (SYMMETRIC | _PAIRS).items()
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
