"""Sparsifying a task vector: exactly the largest entries (TIES), or a random share (DARE)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from merge_core.methods.base import Sum
from merge_core.methods.random_bits import keep_mask

_LOW_BITS = 15
_COARSE_BINS = 1 << 16
_FINE_BINS = 1 << _LOW_BITS
_TINY_NORM = 1e-7


class Sparsifier(ABC):
    """Decides which entries of one model's task vector stay."""

    passes = 0

    def observe(self, index: int, delta: torch.Tensor, start: int) -> None:
        """See a block of the task vector in pass `index`."""

    def conclude(self, index: int) -> None:
        """All blocks of pass `index` were seen."""

    @abstractmethod
    def keep(self, delta: torch.Tensor, start: int) -> torch.Tensor | None:
        """Mask of the entries that stay, or None when all do."""


class KeepAll(Sparsifier):
    """Density 1."""

    def keep(self, delta: torch.Tensor, start: int) -> torch.Tensor | None:
        return None


class KeepRandom(Sparsifier):
    """Each entry stays with probability `density`, independently (DARE, arXiv:2311.03099)."""

    def __init__(self, density: float, key: int) -> None:
        self._density = density
        self._key = key

    def keep(self, delta: torch.Tensor, start: int) -> torch.Tensor | None:
        return keep_mask(self._key, start, delta.numel(), self._density, delta.device)


class KeepLargest(Sparsifier):
    """Exactly k = max(1, int(density * n)) entries of largest magnitude stay.

    Magnitudes are compared as float32. The k-th largest is found without sorting and in constant
    memory: non-negative floats order like their bit patterns, so a histogram over the upper 16 bits
    finds its bin (pass 0) and one over the lower 15 bits its exact value (pass 1). Among entries
    equal to it those with the lowest index stay; pass 2 finds the last of them.
    """

    passes = 3

    def __init__(self, density: float, numel: int) -> None:
        self._rank = min(numel, max(1, int(density * numel)))
        self._counts = torch.zeros(_COARSE_BINS, dtype=torch.int64)
        self._bin = 0
        self._threshold = 0
        self._ties_wanted = 0
        self._ties_seen = 0
        self._last_tie: int | None = None
        self._unambiguous = False

    def observe(self, index: int, delta: torch.Tensor, start: int) -> None:
        if index == 2 and (self._unambiguous or self._last_tie is not None):
            return
        bits = _magnitude_bits(delta)
        if index == 0:
            self._counts += torch.bincount(bits >> _LOW_BITS, minlength=_COARSE_BINS).cpu()
        elif index == 1:
            low = bits[(bits >> _LOW_BITS) == self._bin] & (_FINE_BINS - 1)
            self._counts += torch.bincount(low, minlength=_FINE_BINS).cpu()
        else:
            self._find_last_tie(bits, start)

    def conclude(self, index: int) -> None:
        if index == 0:
            self._bin, self._rank = _descend(self._counts, self._rank)
            self._counts = torch.zeros(_FINE_BINS, dtype=torch.int64)
        elif index == 1:
            low, self._ties_wanted = _descend(self._counts, self._rank)
            self._threshold = (self._bin << _LOW_BITS) | low
            self._unambiguous = self._ties_wanted == int(self._counts[low])

    def keep(self, delta: torch.Tensor, start: int) -> torch.Tensor | None:
        bits = _magnitude_bits(delta)
        if self._unambiguous:
            return bits >= self._threshold
        keep = bits > self._threshold
        assert self._last_tie is not None
        reach = self._last_tie + 1 - start
        if reach > 0:
            keep[:reach] |= bits[:reach] == self._threshold
        return keep

    def _find_last_tie(self, bits: torch.Tensor, start: int) -> None:
        ties = bits == self._threshold
        count = int(ties.sum())
        if self._ties_seen + count >= self._ties_wanted:
            position = ties.nonzero()[self._ties_wanted - self._ties_seen - 1]
            self._last_tie = start + int(position)
        self._ties_seen += count


class Rescale:
    """Factor that restores a sparsified task vector's size.

    kind: "l1" or "l2" make that norm what it was (l1 is what mergekit's `rescale: true` does),
    "inverse_density" divides by the density (the DARE paper), "none" is 1.
    """

    def __init__(self, kind: str, density: float) -> None:
        self.kind = kind
        self.factor = 1.0
        if kind == "inverse_density" and density > 0:
            self.factor = 1.0 / density
        self._before, self._after = Sum(), Sum()

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
            before, after = before**0.5, after**0.5
        if before >= _TINY_NORM and after >= _TINY_NORM:
            self.factor = before / after


def _magnitude_bits(delta: torch.Tensor) -> torch.Tensor:
    return delta.abs().to(torch.float32).view(torch.int32)


def _descend(counts: torch.Tensor, rank: int) -> tuple[int, int]:
    """The bin of the rank-th largest entry (rank from 1), and its rank within that bin."""
    from_top = counts.flip(0).cumsum(0)
    position = int((from_top < rank).sum())
    above = int(from_top[position - 1]) if position else 0
    return counts.numel() - 1 - position, rank - above
