"""The exact k-th largest magnitude of a tensor in about one pass, without sorting it.

A sample brackets the wanted magnitude between two patterns; one pass counts what lies above the
bracket and makes a histogram of what lies in it. Weights of 16 bits have few distinct differences,
so the bin that is hit mostly holds a single pattern, and is the answer; otherwise the next pass
collects the few entries of the bin. A sample that misleads costs passes, never the right result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np

from merge_core.jit.calling_convention import Array
from merge_core.jit.kernel import compiled
from merge_core.jit.stack_arrays import array_on_stack
from merge_core.kernels.cpu.program import Step, run_once
from merge_core.kernels.cpu.stored_tensor import StoredBlock, StoredTensor
from merge_core.kernels.cpu.windows import WIDTH, count_above, pick

_ALL_PATTERNS = 1 << 31
_RUNS, _RUN = 64, 1024
"""A sample: that many runs of that many elements, spread evenly."""
_SLACK = 8
"""Half the bracket's width in standard deviations of an independent sample; entries nearby are not
independent, hence so many."""
_BINS = 4096
_FEW = 1 << 20
"""Entries that may be collected at once."""
_SNAPSHOTS = 32
"""Histograms that are kept, to find the part of the tensor where the last tie is."""
TILE = 1024
"""Entries whose patterns fit a core's first cache."""


INFINITE = 0x7F800000
"""The pattern of infinity; those above it are no numbers."""


@dataclass(frozen=True)
class Cut:
    """The entries above a magnitude pattern, and those equal to it up to the index `last`."""

    threshold: int
    last: int | None = None
    """None for all of them."""

    def lowest(self, index: int) -> int:
        """The smallest pattern that is among them at an index, and from there to `last`."""
        return self.threshold + (self.last is not None and index > self.last)


def least_magnitude(pattern: int) -> float:
    """The smallest float64 whose magnitude, rounded to float32, has at least this pattern."""
    if pattern <= 0:
        return 0.0
    if pattern > INFINITE:
        return math.inf
    below, there = np.array([pattern - 1, pattern], np.uint32).view(np.float32).astype(np.float64)
    middle = (below + (2.0**128 if pattern == INFINITE else there)) / 2.0
    # A float64 in the middle is rounded to the even one of both.
    return float(middle if pattern % 2 == 0 else np.nextafter(middle, math.inf))


ALL, NOTHING = Cut(0), Cut(_ALL_PATTERNS - 1)
EVIDENT = (ALL, NOTHING)
"""Cuts that were found without a look at the tensor, or might have been."""

Window = tuple[np.int32, np.int32, int, Array, Array, Array, Array]
"""A search's state as `count_in_window` takes it."""


class Patterns(Protocol):
    """Magnitude patterns (int32) that are made of a block's entries."""

    def writing(self, block: StoredBlock, bits: Array) -> Sequence[Step]:
        """What writes a block's patterns."""

    def counting(self, block: StoredBlock, windows: tuple[Window, ...]) -> Sequence[Step]:
        """What counts them in some windows."""


def find_cuts(tensor: StoredTensor, wanted: Sequence[tuple[Patterns, int]]) -> list[Cut]:
    """For each (patterns, count) the cut that holds just the `count` largest entries.

    Among equal magnitudes those with the lowest index belong.
    """
    searches = [(patterns, _Search(count, tensor.numel)) for patterns, count in wanted]
    sources = list(dict.fromkeys(patterns for patterns, _ in wanted))
    if any(search.cut is None for _, search in searches):
        samples = _samples(tensor, sources)
        for patterns, search in searches:
            search.bracket(samples[sources.index(patterns)])
    return _found(tensor, searches)


def find_share(tensor: StoredTensor, patterns: Patterns, counted: Array, share: float) -> Cut:
    """The cut that holds the largest entries, int(share * n) of them.

    n is how many entries count, which only the first pass tells: until then, it is what the sample
    makes likely.

    Args:
        counted: int64, one: where `patterns` add up how many entries count.
    """
    counted[0] = 0
    sample = _samples(tensor, [patterns])[0]
    search = _Search(None, tensor.numel)
    search.bracket(sample, share * int(counted[0]) / sample.size)
    counted[0] = 0
    _observe(tensor, {patterns: [search]})
    search.want(int(share * int(counted[0])))
    if search.cut is None:
        search.conclude(tensor, patterns)
    return _found(tensor, [(patterns, search)])[0]


def patterns_of(block: StoredBlock, patterns: Patterns) -> Array:
    """The magnitude patterns (int32) of a block's entries."""
    bits = np.empty(block.count, np.int32)
    run_once(patterns.writing(block, bits), block.start)
    return bits


def _found(tensor: StoredTensor, searches: Sequence[tuple[Patterns, _Search]]) -> list[Cut]:
    """The cuts, after as many passes as it takes."""
    while True:
        active: dict[Patterns, list[_Search]] = {}
        for patterns, search in searches:
            if search.cut is None:
                active.setdefault(patterns, []).append(search)
        if not active:
            return [search.cut for _, search in searches if search.cut is not None]
        _observe(tensor, active)
        for patterns, those in active.items():
            for search in those:
                search.conclude(tensor, patterns)


def _observe(tensor: StoredTensor, active: Mapping[Patterns, Sequence[_Search]]) -> None:
    """Let searches see all patterns once."""

    def split(is_counting: bool) -> dict[Patterns, list[_Search]]:
        found = {
            patterns: [search for search in those if search.is_counting == is_counting]
            for patterns, those in active.items()
        }
        return {patterns: those for patterns, those in found.items() if those}

    counting, collecting = split(True), split(False)

    def steps(block: StoredBlock) -> Iterator[Step]:
        for patterns, those in counting.items():
            yield from patterns.counting(block, tuple(search.window for search in those))

    if counting:
        for start in tensor.walk(steps, pauses=_SNAPSHOTS):
            for search in chain.from_iterable(counting.values()):
                search.take_snapshot(start)
    if collecting:
        for block in tensor.blocks():
            for patterns, those in collecting.items():
                bits = patterns_of(block, patterns)
                for search in those:
                    search.collect(bits, block.start)


def _samples(tensor: StoredTensor, sources: Sequence[Patterns]) -> list[Array]:
    """Sorted patterns of some entries, for each source: of all where there are few."""
    if tensor.numel <= _RUNS * _RUN:
        block = tensor.sample([0], tensor.numel)
    else:
        block = tensor.sample([tensor.numel * run // _RUNS for run in range(_RUNS)], _RUN)
    return [np.sort(patterns_of(block, source)) for source in sources]


class _Search:
    """The search for one cut: of the `count` largest entries, None if that is not known yet."""

    def __init__(self, count: int | None, numel: int) -> None:
        self._rank = 0
        self._numel = numel
        self.cut: Cut | None = None
        if count is not None:
            self.want(count)
        self._low, self._high = 0, _ALL_PATTERNS
        self._collecting: list[tuple[Array, Array]] | None = None
        self._reset()

    def want(self, count: int) -> None:
        """Say how many entries are wanted; to be called before `conclude`."""
        self._rank = count
        self.cut = NOTHING if count <= 0 else ALL if count >= self._numel else None

    def bracket(self, sample: Array, share: float | None = None) -> None:
        """Narrow the window to where a sorted sample makes the answer likely.

        share: the likely share of wanted entries, if their count is not known.
        """
        if self.cut is not None:
            return
        if share is None:
            share = self._rank / self._numel
        position = sample.size - share * sample.size
        slack = _SLACK * math.sqrt(sample.size * share * (1.0 - share)) + 16.0
        first, last = int(position - slack), int(position + slack)
        low = int(sample[first]) if first >= 0 else 0
        high = int(sample[last]) + 1 if last < sample.size else _ALL_PATTERNS
        self._set_window(low, high)

    @property
    def is_counting(self) -> bool:
        """Whether the next pass makes a histogram; else it collects entries."""
        return self._collecting is None

    @property
    def window(self) -> Window:
        """What the next pass counts, and where to."""
        return (
            np.int32(self._low),
            np.int32(self._high - 1),
            self._shift,
            self._counts,
            self._least,
            self._most,
            self._above,
        )

    def take_snapshot(self, start: int) -> None:
        """Keep what was counted of the entries before an index, if the last time is long ago."""
        if start >= len(self._snapshots) * self._numel / _SNAPSHOTS:
            self._snapshots.append((start, self._counts.copy()))

    def collect(self, bits: Array, start: int) -> None:
        """Keep a block's patterns that lie in the window, with their indices."""
        assert self._collecting is not None
        where = np.flatnonzero((bits >= self._low) & (bits < self._high))
        self._collecting.append((bits[where], where + start))

    def conclude(self, tensor: StoredTensor, patterns: Patterns) -> None:
        """All blocks were seen: the cut is found, or the window of the next pass is."""
        if self._collecting is not None:
            self._choose_among_collected()
            return
        inside = int(self._counts.sum())
        rank = self._rank - int(self._above[0])
        if rank <= 0:
            self._set_window(self._high, _ALL_PATTERNS)
        elif rank > inside:
            self._set_window(0, self._low)
        else:
            self._descend(rank, tensor, patterns)

    def _descend(self, rank: int, tensor: StoredTensor, patterns: Patterns) -> None:
        from_top = np.cumsum(self._counts[::-1])
        place = int(np.searchsorted(from_top, rank))
        number = _BINS - 1 - place
        rank -= int(from_top[place - 1]) if place else 0
        count = int(self._counts[number])
        if self._least[number] == self._most[number]:
            threshold = int(self._least[number])
            last = (
                None if rank == count else self._locate(threshold, number, rank, tensor, patterns)
            )
            self.cut = Cut(threshold, last)
            return
        low = self._low + (number << self._shift)
        high = min(self._high, low + (1 << self._shift))
        if count <= _FEW:
            self._low, self._high, self._collecting, self._wanted = low, high, [], rank
        else:
            self._set_window(low, high)

    def _locate(
        self, threshold: int, number: int, rank: int, tensor: StoredTensor, patterns: Patterns
    ) -> int:
        """The index of the `rank`-th entry of just this magnitude."""
        seen = [int(counts[number]) for _, counts in self._snapshots]
        place = int(np.searchsorted(seen, rank)) - 1
        left = rank - seen[place]
        for block in tensor.blocks(self._snapshots[place][0]):
            equal = np.flatnonzero(patterns_of(block, patterns) == threshold)
            if left <= equal.size:
                return block.start + int(equal[left - 1])
            left -= equal.size
        raise AssertionError("entries were counted that are not there")

    def _choose_among_collected(self) -> None:
        assert self._collecting is not None
        bits = np.concatenate([part for part, _ in self._collecting])
        where = np.concatenate([part for _, part in self._collecting])
        order = np.lexsort((where, -bits.astype(np.int64)))
        chosen = order[self._wanted - 1]
        threshold = int(bits[chosen])
        self.cut = Cut(threshold, int(where[chosen]))

    def _set_window(self, low: int, high: int) -> None:
        self._low, self._high = low, high
        self._reset()

    def _reset(self) -> None:
        width = self._high - self._low
        self._shift = max(0, (width - 1).bit_length() - (_BINS.bit_length() - 1))
        self._counts = np.zeros(_BINS, np.int64)
        self._least = np.full(_BINS, _ALL_PATTERNS, np.int64)
        self._most = np.full(_BINS, -1, np.int64)
        self._above = np.zeros(1, np.int64)
        self._snapshots: list[tuple[int, Array]] = []
        self._wanted = 0


_picked_on_stack = array_on_stack("uint32", TILE + WIDTH)


@compiled
def count_in_window(bits: Array, window: Any) -> None:
    """Count the patterns of at most `TILE` entries.

    Args:
        window: the lowest and highest pattern (int32) of a histogram, by how many bits a pattern is
            shifted to its bin, the histogram's counts and the extremes of each bin (int64, to be
            added to), and how many patterns exceed the window (int64, 1).
    """
    low, top, shift, counts, least, most, above = window
    width = np.uint32(np.int64(top) - low + 1)
    picked = _picked_on_stack()
    above[0] += count_above(bits, top)
    for p in range(pick(bits, low, width, picked)):
        pattern = low + np.int64(picked[p])
        number = np.int64(picked[p]) >> shift
        counts[number] += 1
        least[number] = min(pattern, least[number])
        most[number] = max(pattern, most[number])


@compiled
def count_in_windows(bits: Array, windows: tuple[Any, ...]) -> None:
    """Count any number of patterns in some windows."""
    for first in range(0, bits.size, TILE):
        for k in range(len(windows)):
            count_in_window(bits[first : first + TILE], windows[k])
