"""Sparsifying a task vector: which of its entries stay, and how it gets its size back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from merge_core.methods.parts.random_bits import BITS, keep_mask, random_integers
from merge_core.methods.parts.top_k import LargestEntries
from merge_core.reductions.sums import Sum
from merge_core.runtime.lazy_torch import torch

TINY_NORM = 1e-7
"""A norm below this cannot be restored."""


class Sparsifier(ABC):
    """Decides which entries of one model's task vector stay."""

    passes = 0

    def observe(self, index: int, delta: torch.Tensor, start: int) -> None:
        """See a block of the task vector in pass `index`."""

    def conclude(self, index: int) -> None:
        """All blocks of pass `index` were seen."""

    @abstractmethod
    def keep(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        """Mask of the entries that stay, bool."""

    def apply(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        """The block with zeros in place of the entries that go."""
        return delta * self.keep(delta, start)


class KeepAll(Sparsifier):
    """Density 1."""

    def keep(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        return torch.ones_like(delta, dtype=torch.bool)

    def apply(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        return delta


class KeepRandom(Sparsifier):
    """Each entry stays with probability `density`, independently (DARE, arXiv:2311.03099)."""

    def __init__(self, density: float, key: int) -> None:
        self._density = density
        self._key = key

    def keep(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        return keep_mask(self._key, start, delta.numel(), self._density, delta.device)


class KeepLargest(Sparsifier):
    """Exactly k = max(1, int(density * n)) entries of largest magnitude stay (TIES).

    None at density 0.
    """

    passes = LargestEntries.passes

    def __init__(self, density: float, numel: int) -> None:
        self._largest = LargestEntries(kept_count(density, numel))

    def observe(self, index: int, delta: torch.Tensor, start: int) -> None:
        self._largest.observe(index, delta, start)

    def conclude(self, index: int) -> None:
        self._largest.conclude(index)

    def keep(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        return self._largest.mask(delta, start)


class KeepBand(Sparsifier):
    """The int(gamma * n) largest entries go, the max(1, int(density * n)) next ones stay.

    None at density 0. Model Breadcrumbs, arXiv:2312.06795.
    """

    passes = LargestEntries.passes

    def __init__(self, density: float, gamma: float, numel: int) -> None:
        kept = kept_count(density, numel)
        outliers = min(int(gamma * numel), numel - kept)
        self._outliers = LargestEntries(outliers)
        self._upper = LargestEntries(outliers + kept)

    def observe(self, index: int, delta: torch.Tensor, start: int) -> None:
        self._outliers.observe(index, delta, start)
        self._upper.observe(index, delta, start)

    def conclude(self, index: int) -> None:
        self._outliers.conclude(index)
        self._upper.conclude(index)

    def keep(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        return self._upper.mask(delta, start) & ~self._outliers.mask(delta, start)


class KeepByRank(Sparsifier):
    """Each entry stays with a probability that grows with its magnitude's rank in its row (DELLA).

    p = density - epsilon + 2 * epsilon * rank / (row - 1), rank from 0 for the smallest magnitude.
    With `inverse` an entry that stays is divided by its p. Needs blocks of whole rows.
    """

    def __init__(
        self, density: float, epsilon: float, row: int, key: int, *, inverse: bool
    ) -> None:
        self._inverse = inverse
        self._low, self._spread = density - epsilon, 2 * epsilon
        self._density = density
        self._row = row
        self._key = key

    def keep(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        return self._drawn(self._probabilities(delta), delta, start)

    def apply(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        probabilities = self._probabilities(delta)
        kept = delta * self._drawn(probabilities, delta, start)
        return kept / probabilities if self._inverse else kept

    def _drawn(self, probabilities: torch.Tensor, delta: torch.Tensor, start: int) -> torch.Tensor:
        limits = (probabilities * (1 << BITS)).to(torch.int64)
        return random_integers(self._key, start, delta.numel(), delta.device) < limits

    def _probabilities(self, delta: torch.Tensor) -> torch.Tensor:
        rows = delta.view(-1, self._row).abs()
        if self._row == 1:
            return torch.full_like(delta, self._density)
        order = rows.argsort(dim=1, stable=True)
        ranks = torch.empty_like(order)
        ranks.scatter_(1, order, torch.arange(self._row, device=rows.device).expand_as(order))
        return (ranks.to(torch.float64) * (self._spread / (self._row - 1)) + self._low).view(-1)


class Rescale:
    """Factor that restores a sparsified task vector's size.

    kind: "l1" or "l2" make that norm what it was (l1 is what mergekit's `rescale: true` does),
    "inverse_density" divides by the density (the DARE paper), "none" is 1.
    """

    def __init__(self, kind: str, density: float, step: int) -> None:
        self.kind = kind
        self.factor = 1.0
        if kind == "inverse_density" and density > 0:
            self.factor = 1.0 / density
        self._before, self._after = Sum(step), Sum(step)

    @property
    def needs_pass(self) -> bool:
        """Whether norms must be measured before the factor is known."""
        return self.kind in ("l1", "l2")

    def observe(self, delta: torch.Tensor, kept: torch.Tensor) -> None:
        """See a block before and after sparsifying."""
        if self.kind == "l1":
            self._before.add(delta.abs())
            self._after.add(kept.abs())
        else:
            self._before.add(delta * delta)
            self._after.add(kept * kept)

    def conclude(self) -> None:
        """All blocks were seen."""
        before, after = self._before.value, self._after.value
        if self.kind == "l2":
            before, after = math.sqrt(before), math.sqrt(after)
        if before >= TINY_NORM and after >= TINY_NORM:
            self.factor = before / after


def kept_count(density: float, numel: int) -> int:
    """How many of `numel` entries a density keeps: max(1, int(density * numel)), none at 0."""
    return min(numel, max(1, int(density * numel))) if density > 0 else 0
