"""Exact order statistics of streamed values: no sorting, no sample, constant memory.

Floats order like their bit patterns once those of negative numbers are flipped, so four histograms
of 16 bits each, one a pass, find the value of any rank among float64 numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from merge_core.runtime.lazy_torch import torch

_DIGIT = 16
_BINS = 1 << _DIGIT
_SIGN = -(1 << 63)
_MAGNITUDE = (1 << 63) - 1


class OrderStatistics:
    """The values at given ranks (0 is the smallest) of all values that are shown in each pass."""

    passes = 64 // _DIGIT

    def __init__(self, ranks: Sequence[int]) -> None:
        self._ranks = list(ranks)
        self._prefixes = [0 for _ in ranks]
        self._counts: dict[int, torch.Tensor] = {}

    def observe(self, index: int, values: torch.Tensor) -> None:
        """See a block of float64 values in pass `index`."""
        keys = _ordered(values)
        shift = 64 - _DIGIT * (index + 1)
        digits = (keys >> shift) & (_BINS - 1)
        for prefix in set(self._prefixes):
            if index:
                known = (keys >> (shift + _DIGIT)) & ((1 << _DIGIT * index) - 1)
                counts = torch.bincount(digits[known == prefix], minlength=_BINS).cpu()
            else:
                counts = torch.bincount(digits, minlength=_BINS).cpu()
            self._counts[prefix] = self._counts.get(prefix, 0) + counts

    def conclude(self, index: int) -> None:
        """All blocks of pass `index` were seen."""
        for position, prefix in enumerate(self._prefixes):
            if prefix in self._counts:
                below = self._counts[prefix].cumsum(0)
                digit = int((below <= self._ranks[position]).sum())
                self._ranks[position] -= int(below[digit - 1]) if digit else 0
                self._prefixes[position] = (prefix << _DIGIT) | digit
        self._counts = {}

    def values(self) -> list[float]:
        """The value at each rank, after the last pass."""
        keys = [prefix + _SIGN for prefix in self._prefixes]
        bits = [key if key >= 0 else key ^ _MAGNITUDE for key in keys]
        found = torch.tensor(bits, dtype=torch.int64).view(torch.float64).tolist()
        return [float(value) for value in found]


def _ordered(values: torch.Tensor) -> torch.Tensor:
    """Bit patterns that order as unsigned numbers the way the values do."""
    bits = values.contiguous().view(torch.int64)
    return torch.where(bits >= 0, bits, bits ^ _MAGNITUDE) ^ _SIGN
