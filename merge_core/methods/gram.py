"""Methods whose result is a combination of whole tensors with coefficients from their dot products.

Angles, norms, projections and means on a sphere all lie in the span of the inputs, so they follow
from the Gram matrix: one pass of reductions, a small computation, one pass of combining.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from itertools import combinations_with_replacement

import numpy as np
import torch
from numpy.typing import NDArray

from merge_core.methods.base import CHUNK, Block, Kernel, Sum

Matrix = NDArray[np.float64]


class GramKernel(Kernel):
    """Measures the Gram matrix of `vectors(block)`, then combines them by `coefficients(gram)`."""

    passes = 1

    def __init__(self, count: int, step: int = CHUNK) -> None:
        self._sums = {pair: Sum(step) for pair in combinations_with_replacement(range(count), 2)}
        self._count = count
        self._coefficients: list[float] = []

    @abstractmethod
    def vectors(self, block: Block) -> list[torch.Tensor]:
        """The vectors to combine: the models, or their task vectors."""

    @abstractmethod
    def coefficients(self, gram: Matrix) -> list[float]:
        """The factor of each vector, from all their dot products (float64, count x count)."""

    def origin(self, block: Block) -> torch.Tensor | None:
        """What the combination is added to: nothing, or the base."""
        return None

    def observe(self, index: int, block: Block) -> None:
        vectors = self.vectors(block)
        for (i, j), total in self._sums.items():
            total.add(vectors[i] * vectors[j])

    def conclude(self, index: int) -> None:
        gram = np.zeros((self._count, self._count))
        for (i, j), total in self._sums.items():
            gram[i, j] = gram[j, i] = total.value
        self._coefficients = self.coefficients(gram)

    def combine(self, block: Block) -> torch.Tensor:
        vectors = self.vectors(block)
        total = vectors[0] * self._coefficients[0]
        for vector, coefficient in zip(vectors[1:], self._coefficients[1:], strict=True):
            total += vector * coefficient
        origin = self.origin(block)
        return total if origin is None else total + origin


class ModelGram(GramKernel):
    """Over the models' weights, the base first when the method reads one."""

    def __init__(self, count: int, *, with_base: bool) -> None:
        super().__init__(count + with_base)
        self._with_base = with_base

    def vectors(self, block: Block) -> list[torch.Tensor]:
        if self._with_base:
            assert block.base is not None
            return [block.base, *block.models]
        return list(block.models)


class TaskVectorGram(GramKernel):
    """Over the task vectors; the result is added to the base."""

    def vectors(self, block: Block) -> list[torch.Tensor]:
        return block.task_vectors

    def origin(self, block: Block) -> torch.Tensor | None:
        return block.base


def norms(gram: Matrix) -> list[float]:
    """Euclidean norms of the vectors."""
    return [math.sqrt(max(0.0, value)) for value in np.diagonal(gram)]
