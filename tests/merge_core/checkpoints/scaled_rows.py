"""An input format as an example: float8 matrices in `model.safetensors`, beside it their scales.

`scales.safetensors` has a float32 for each row, under the name of the matrix. A reader to copy for
tensors that are made from stored ones; for files of another kind see `flat_file`. Outside of this
file the format takes its place in `READERS`, `merge_core/checkpoints/checkpoint.py`, and no more:
its files end in `.safetensors`, which digests cover.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from merge_core.checkpoints import safetensors_files
from merge_core.checkpoints.adapters.tensors import OfOneTensor
from merge_core.checkpoints.reader import Weights
from merge_core.tensors.inputs import Feed, FeedContext
from merge_core.tensors.safetensors_header import KnownHeaders, TensorEntry, read_header

SCALES = "scales.safetensors"


def reads(directory: Path) -> bool:
    """Where there are scales."""
    return (directory / SCALES).exists()


def read(directory: Path, known: KnownHeaders | None) -> Weights:
    """The stored tensors; those with scales as bfloat16."""
    found = safetensors_files.read(directory, known)
    scaled = {
        name: ScaledRows(name, "BF16", found.tensors[name], scales)
        for name, scales in read_header(directory / SCALES, known).items()
    }
    return found._replace(tensors={**found.tensors, **scaled})


def used(directory: Path) -> frozenset[str] | None:
    """The scales too."""
    return (safetensors_files.used(directory) or frozenset()) | {SCALES}


@dataclass(frozen=True)
class ScaledRows(OfOneTensor):
    """A matrix, each row of it times its scale."""

    scales: TensorEntry

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """The matrix and its scales."""
        return (*self.origin.entries, self.scales)

    def open(self, context: FeedContext) -> Feed:
        """Its values."""
        return _ScaledFeed(self, context)


class _ScaledFeed:
    def __init__(self, tensor: ScaledRows, context: FeedContext) -> None:
        self._matrix = tensor.origin.open(context)
        self._scales = tensor.scales.open(context).read(0, tensor.scales.numel).clone()
        self._columns = tensor.shape[1]

    def read(self, start: int, count: int) -> torch.Tensor:
        """Elements `start : start + count`, in float64."""
        rows = torch.arange(start, start + count, device=self._scales.device) // self._columns
        return self._matrix.read(start, count) * self._scales[rows]
