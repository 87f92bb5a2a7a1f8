"""Runs a recipe on small tensors that are in memory: no files, the ordinary methods and rules."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from merge_core.checkpoints.checkpoint import Checkpoint
from merge_core.engine.model_statistics import gather_model_statistics
from merge_core.methods.base import ModelStatistics
from merge_core.planning.merged_tensor import Computing
from merge_core.planning.merged_tensors import RecipeInputs, plan_tensors
from merge_core.recipes.recipe import Recipe
from merge_core.reductions.constants import CHUNK
from merge_core.runtime.lazy_torch import torch
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.inputs import Feed, FeedContext, MadeTensor
from merge_core.tensors.safetensors_header import TensorEntry

Tensors: TypeAlias = "Mapping[str, torch.Tensor]"


def merge_in_memory(
    recipe: Recipe, models: Mapping[str, Tensors], digests: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    """The tensors that a recipe makes of float64 tensors, in float64.

    Args:
        models: tensors by name, for each of `recipe.references()`.
        digests: of each model's content; random masks depend on it.

    Raises:
        RecipeError: parameters that do not go together.
    """
    recipe = recipe.model_copy(update={"dtype": None, "out_dtype": None})
    inputs = RecipeInputs(
        checkpoints={reference: _checkpoint(tensors) for reference, tensors in models.items()},
        digests=dict(digests),
    )
    tensors = plan_tensors(recipe, inputs)
    found: dict[str, ModelStatistics] = {}
    with BlockReader() as reader:

        def context() -> Computing:
            return Computing(reader, torch.device("cpu"), CHUNK, found, threading.Event())

        gather_model_statistics(inputs.observed, found, context, 1)
        return {
            tensor.name: tensor.open(context()).read(0, tensor.numel).reshape(tensor.shape)
            for tensor in tensors
        }


def _checkpoint(tensors: Tensors) -> Checkpoint:
    in_memory = {name: _TensorInMemory(name, values) for name, values in sorted(tensors.items())}
    return Checkpoint(Path(), MappingProxyType(in_memory), {})


@dataclass(frozen=True)
class _TensorInMemory(MadeTensor):
    name: str
    values: torch.Tensor
    dtype: str = "F64"
    entries: tuple[TensorEntry, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    def open(self, context: FeedContext) -> Feed:
        return self

    def read(self, start: int, count: int) -> torch.Tensor:
        """Elements `start : start + count` of the flattened tensor."""
        return self.values.reshape(-1)[start : start + count]
