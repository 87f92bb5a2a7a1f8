"""Adapters on disk with their dense changes, and a way to merge them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from merge_core.checkpoints.sources import describe_adapter, describe_source, open_source
from merge_core.files.digests import DigestMemo
from merge_core.methods import METHODS
from merge_core.operations.adapters.merge import merge_adapters
from merge_core.operations.adapters.records import AdapterManifest
from merge_core.recipes.loading import parse_recipe
from tests.conformance.test_adapters import applied, read_all
from tests.support.adapters import Factors, random_factors, write_adapter
from tests.support.checkpoints import write_checkpoint

SHAPES = {
    "model.layers.0.self_attn.q_proj": (12, 8),
    "model.layers.1.self_attn.q_proj": (12, 8),
    "model.layers.2.self_attn.q_proj": (12, 8),
    "model.layers.2.mlp.up_proj": (20, 8),
}

Q0, Q1, Q2, UP = SHAPES
Deltas = dict[str, torch.Tensor]


class Bench:
    """Adapters on disk with their dense changes, and a way to merge them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.deltas: dict[str, Deltas] = {}
        self.factors: dict[str, tuple[Factors, float]] = {}

    def add(
        self, name: str, rank: int, *, seed: int, modules: tuple[str, ...] = (), **settings: Any
    ) -> str:
        """An adapter of a rank for some modules, all by default."""
        shapes = {module: SHAPES[module] for module in modules or SHAPES}
        factors = random_factors(shapes, rank, seed=seed, scale=0.5)
        write_adapter(self.place / name, factors, **settings)
        alpha = settings.get("lora_alpha", rank)
        scaling = alpha / rank**0.5 if settings.get("use_rslora") else alpha / rank
        self.factors[name] = (factors, scaling)
        self.deltas[name] = {
            module: scaling * (b.double() @ a.double()) for module, (a, b) in factors.items()
        }
        return name

    def delta(self, name: str, module: str) -> torch.Tensor:
        """The dense change of one module; zero where the adapter has none."""
        return self.deltas[name].get(module, torch.zeros(SHAPES[module], dtype=torch.float64))

    def merge(
        self,
        method: str,
        models: Mapping[str, Mapping[str, Any]],
        out: str = "out",
        parameters: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AdapterManifest:
        """Merge adapters by name with their parameters."""
        values: dict[str, Any] = {
            "merge_method": method,
            "models": [{"model": name, "parameters": dict(own)} for name, own in models.items()],
            "parameters": dict(parameters or {}),
        }
        if METHODS[method].base == "required":
            values["base_model"] = "some/base"
        values |= options.pop("recipe", {})
        adapters = {
            name: describe_adapter(name, self.place / name, DigestMemo(None)) for name in models
        }
        return merge_adapters(parse_recipe(values), adapters, self.place / out, **options)

    def merged(self, out: str = "out") -> Deltas:
        """The dense changes of a merged adapter, read back from its files."""
        zeros = {f"{name}.weight": torch.zeros(shape) for name, shape in SHAPES.items()}
        base = self.place / "zero-base"
        if not base.exists():
            write_checkpoint(base, zeros)
        source = applied(describe_source("b", base, DigestMemo(None)), self.place / out)
        return {
            name.removesuffix(".weight"): read_all(tensor)
            for name, tensor in open_source(source).tensors.items()
        }
