"""Exact selection of the largest entries of a tensor: no sorting, constant memory.

Non-negative floats order like their bit patterns, so a histogram over the upper 16 bits finds the
bin of the k-th largest magnitude, and one over the lower 15 bits its exact value.
"""

from __future__ import annotations

import torch

_LOW_BITS = 15
_COARSE_BINS = 1 << 16
_FINE_BINS = 1 << _LOW_BITS


class LargestEntries:
    """The `count` entries of largest magnitude, compared as float32.

    Pass 0 finds the bin of the smallest of them, pass 1 its exact magnitude, pass 2 the last index
    that belongs: among equal magnitudes those with the lowest index count.
    """

    passes = 3

    def __init__(self, count: int) -> None:
        self._rank = count
        self._none = count <= 0
        self._counts = torch.zeros(0, dtype=torch.int64)
        self._bin = 0
        self._threshold = 0
        self._ties_wanted = 0
        self._ties_seen = 0
        self._last_tie: int | None = None
        self._unambiguous = False

    def observe(self, index: int, delta: torch.Tensor, start: int) -> None:
        """See a block in pass `index`."""
        if self._none:
            return
        if index == 2 and (self._unambiguous or self._last_tie is not None):
            return
        bits = _magnitude_bits(delta)
        if index == 0:
            if not self._counts.numel():
                self._counts = torch.zeros(_COARSE_BINS, dtype=torch.int64)
            self._counts += torch.bincount(bits >> _LOW_BITS, minlength=_COARSE_BINS).cpu()
        elif index == 1:
            low = bits[(bits >> _LOW_BITS) == self._bin] & (_FINE_BINS - 1)
            self._counts += torch.bincount(low, minlength=_FINE_BINS).cpu()
        else:
            self._find_last_tie(bits, start)

    def conclude(self, index: int) -> None:
        """All blocks of pass `index` were seen."""
        if self._none or not self._counts.numel():
            return
        if index == 0:
            self._bin, self._rank = _descend(self._counts, self._rank)
            self._counts = torch.zeros(_FINE_BINS, dtype=torch.int64)
        elif index == 1:
            low, self._ties_wanted = _descend(self._counts, self._rank)
            self._threshold = (self._bin << _LOW_BITS) | low
            self._unambiguous = self._ties_wanted == int(self._counts[low])

    def mask(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        """Which entries of a block are among the largest, bool."""
        if self._none:
            return torch.zeros_like(delta, dtype=torch.bool)
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


def _magnitude_bits(delta: torch.Tensor) -> torch.Tensor:
    return delta.abs().to(torch.float32).view(torch.int32)


def _descend(counts: torch.Tensor, rank: int) -> tuple[int, int]:
    """The bin of the rank-th largest entry (rank from 1), and its rank within that bin."""
    from_top = counts.flip(0).cumsum(0)
    position = int((from_top < rank).sum())
    above = int(from_top[position - 1]) if position else 0
    return counts.numel() - 1 - position, rank - above
