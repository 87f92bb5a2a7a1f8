"""Methods whose result is a combination of whole tensors with coefficients from their dot products.

Angles, norms, projections and means on a sphere all lie in the span of the inputs, so they follow
from the Gram matrix: one pass of reductions, a small computation, one pass of combining.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from itertools import combinations_with_replacement
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from merge_core.methods.base import Block, Kernel
from merge_core.reductions.constants import CHUNK
from merge_core.reductions.sums import Sum
from merge_core.runtime.lazy_torch import torch

Matrix = NDArray[np.float64]


Spanning = Literal["models", "base and models", "task vectors"]
"""What is combined. Of task vectors the combination is added to the base."""


class GramKernel(Kernel):
    """Measures the Gram matrix of some vectors, then combines them by `coefficients(gram)`."""

    passes = 1

    def __init__(self, models: int, spanning: Spanning, step: int = CHUNK) -> None:
        self.spanning = spanning
        self.count = models + (spanning == "base and models")
        self.step = step
        pairs = combinations_with_replacement(range(self.count), 2)
        self._sums = {pair: Sum(step) for pair in pairs}
        self._coefficients: list[float] = []

    @abstractmethod
    def coefficients(self, gram: Matrix) -> list[float]:
        """The factor of each vector, from all their dot products (float64, count x count)."""

    def observe(self, index: int, block: Block) -> None:
        vectors = self._vectors(block)
        for (i, j), total in self._sums.items():
            total.add(vectors[i] * vectors[j])

    def conclude(self, index: int) -> None:
        gram = np.zeros((self.count, self.count))
        for (i, j), total in self._sums.items():
            gram[i, j] = gram[j, i] = total.value
        self._coefficients = self.coefficients(gram)

    def combine(self, block: Block) -> torch.Tensor:
        vectors = self._vectors(block)
        total = vectors[0] * self._coefficients[0]
        for vector, coefficient in zip(vectors[1:], self._coefficients[1:], strict=True):
            total += vector * coefficient
        if self.spanning != "task vectors":
            return total
        assert block.base is not None
        return total + block.base

    def _vectors(self, block: Block) -> list[torch.Tensor]:
        if self.spanning == "task vectors":
            return block.task_vectors
        if self.spanning == "models":
            return list(block.models)
        assert block.base is not None
        return [block.base, *block.models]


def norms(gram: Matrix) -> list[float]:
    """Euclidean norms of the vectors."""
    return [math.sqrt(max(0.0, value)) for value in np.diagonal(gram)]
