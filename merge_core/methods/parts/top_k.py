"""Exact selection of the largest entries of a tensor: no sorting, constant memory.

Non-negative floats order like their bit patterns, so a histogram over the upper 16 bits finds the
bin of the k-th largest magnitude, and one over the lower 15 bits its exact value.
"""

from __future__ import annotations

from merge_core.runtime.lazy_torch import torch

_LOW_BITS = 15
_COARSE_BINS = 1 << 16
_FINE_BINS = 1 << _LOW_BITS


class AboveThreshold:
    """The entries above a magnitude, and of those equal to it the first few, or all.

    Args:
        threshold: bit pattern of the magnitude as float32.
        ties_wanted: how many entries of just that magnitude belong, by lowest index; None for all.
            With a number the blocks must be observed once, in order, before `mask`.
    """

    def __init__(self, threshold: int, ties_wanted: int | None) -> None:
        self._threshold = threshold
        self._ties_wanted = ties_wanted
        self._ties_seen = 0
        self._last_tie: int | None = -1 if ties_wanted == 0 else None

    @property
    def passes(self) -> int:
        """1 when the position of the last tie must be found, else 0."""
        return int(self._ties_wanted is not None and self._last_tie is None)

    def observe(self, delta: torch.Tensor, start: int) -> None:
        """See a block, to find the last tie that belongs."""
        if self._ties_wanted is None or self._last_tie is not None:
            return
        ties = magnitude_bits(delta) == self._threshold
        count = int(ties.sum())
        if self._ties_seen + count >= self._ties_wanted:
            position = ties.nonzero()[self._ties_wanted - self._ties_seen - 1]
            self._last_tie = start + int(position)
        self._ties_seen += count

    def mask(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        """Which entries of a block belong, bool."""
        bits = magnitude_bits(delta)
        if self._ties_wanted is None:
            return bits >= self._threshold
        keep = bits > self._threshold
        assert self._last_tie is not None
        reach = self._last_tie + 1 - start
        if reach > 0:
            keep[:reach] |= bits[:reach] == self._threshold
        return keep


class LargestEntries:
    """The `count` entries of largest magnitude, compared as float32.

    Pass 0 finds the bin of the smallest of them, pass 1 its exact magnitude, pass 2 the last index
    that belongs: among equal magnitudes those with the lowest index count.
    """

    passes = 3

    def __init__(self, count: int) -> None:
        self._search = ThresholdSearch(count)
        self._chosen: AboveThreshold | None = None

    def observe(self, index: int, delta: torch.Tensor, start: int) -> None:
        """See a block in pass `index`."""
        if index < ThresholdSearch.passes:
            self._search.add(index, self._search.histogram(index, delta))
        elif self._chosen is not None:
            self._chosen.observe(delta, start)

    def conclude(self, index: int) -> None:
        """All blocks of pass `index` were seen."""
        if index < ThresholdSearch.passes:
            self._search.conclude(index)
        if index == ThresholdSearch.passes - 1 and self._search.found:
            self._chosen = AboveThreshold(self._search.threshold, self._search.ties_wanted)

    def mask(self, delta: torch.Tensor, start: int) -> torch.Tensor:
        """Which entries of a block are among the largest, bool."""
        if self._chosen is None:
            return torch.zeros_like(delta, dtype=torch.bool)
        return self._chosen.mask(delta, start)


class ThresholdSearch:
    """Finds the magnitude of the `count`-th largest entry from two rounds of histograms.

    Histograms are added up in any order. `ties_wanted` is how many entries of just that magnitude
    are among the `count` largest, or None for all there are.
    """

    passes = 2

    def __init__(self, count: int) -> None:
        self._rank = count
        self._none = count <= 0
        self._counts: torch.Tensor | None = None
        self._bin = 0
        self.found = False
        self.threshold = 0
        self.ties_wanted: int | None = None

    def histogram(self, index: int, delta: torch.Tensor) -> torch.Tensor | None:
        """A block's contribution to pass `index`: int64 on the CPU."""
        if self._none:
            return None
        bits = magnitude_bits(delta)
        if index == 0:
            return torch.bincount(bits >> _LOW_BITS, minlength=_COARSE_BINS).cpu()
        low = bits[(bits >> _LOW_BITS) == self._bin] & (_FINE_BINS - 1)
        return torch.bincount(low, minlength=_FINE_BINS).cpu()

    def add(self, index: int, histogram: torch.Tensor | None) -> None:
        """Count a histogram in."""
        if histogram is None:
            return
        if self._counts is None:
            self._counts = histogram.clone()
        else:
            self._counts += histogram

    def conclude(self, index: int) -> None:
        """All histograms of pass `index` were added."""
        if self._none or self._counts is None:
            return
        position, self._rank = _descend(self._counts, self._rank)
        if index == 0:
            self._bin = position
        else:
            self.threshold = (self._bin << _LOW_BITS) | position
            self.ties_wanted = None if self._rank == int(self._counts[position]) else self._rank
            self.found = True
        self._counts = None


def magnitude_bits(delta: torch.Tensor) -> torch.Tensor:
    """Bit patterns of the magnitudes as float32, int32: ordered like the magnitudes."""
    return delta.abs().to(torch.float32).view(torch.int32)


def _descend(counts: torch.Tensor, rank: int) -> tuple[int, int]:
    """The bin of the rank-th largest entry (rank from 1), and its rank within that bin."""
    from_top = counts.flip(0).cumsum(0)
    position = int((from_top < rank).sum())
    above = int(from_top[position - 1]) if position else 0
    return counts.numel() - 1 - position, rank - above
