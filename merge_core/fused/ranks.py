"""Drawing entries with limits that grow with their magnitude's rank in a row, mostly unsorted.

A row's magnitudes are counted in bins, which bounds the rank of every entry, and so the limit that
its random number is compared with. Few numbers lie between the bounds of their bin: only for those
is the rank itself found.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from merge_core.fused.compiling import Array, Growing, compiled
from merge_core.fused.draws import TOP, draw_tops, number
from merge_core.fused.formats import magnitude_bits, widen
from merge_core.fused.steps import Step, calling
from merge_core.fused.windows import count_above
from merge_core.methods.random_bits import BITS

_OCTAVES = 8
"""Powers of two below a row's largest magnitude that are divided into bins of their own."""
_PER_BIN = 4
"""Entries of a row for each bin."""
_MOST_BITS = 12
"""Of the mantissa, in a bin: bins are numbered with 16 bits."""
_MANTISSA = 23
"""Bits of a magnitude pattern below its exponent."""
_FEW = 100
"""Entries of a row whose ranks are found one by one."""
_DRAWN, _UNDECIDED, _UNRANKED = 2, 1, 3
"""Marks in the mask of a row while it is drawn; the last on the first entry of one to be sorted."""
_MIXED = -1 << 30
_UNDECIDED_IN_ALL = np.uint64(0x0101010101010101)


def drawing_by_rank(
    base: Array,
    model: Array,
    row: int,
    low: float,
    slope: float,
    key: int,
    start: Growing,
    mask: Array,
) -> Step:
    """What draws entries of some whole rows into `mask` (uint8).

    An entry is when its number (`random_bits`) is below `low + slope * rank` times 2**BITS; ranks
    count from 0 for the smallest magnitude of a row, equal ones in their order.

    Args:
        base, model: stored values; the magnitudes are those of their difference.
        row: elements of a row.
        slope: not negative.
        start: index of the first entry.
    """
    bits = min(_MOST_BITS, max(3, (row // _PER_BIN // _OCTAVES).bit_length() - 1))
    chance = (low, slope, np.uint64(key))
    # One bin more for zeros, of which there may be many, and the end of the last.
    size = (_OCTAVES << bits) + 2
    of_bins = (*np.empty((3, size), np.int32), np.empty(size, np.uint32))
    integers = (*np.empty((2, row), np.int32), np.arange(row, dtype=np.int32))
    others = [np.empty(row, kind) for kind in (np.uint16, np.uint32, np.int64, np.uint8)]
    room = (*of_bins, *integers, *others)

    def sort_the_rest(first_of_block: int) -> None:
        for first in range(0, model.size, row):
            those = slice(first, first + row)
            if mask[first] == _UNRANKED:
                exact = np.empty(row)
                _magnitudes(base[those], model[those], exact)
                ranks = np.empty(row, np.int64)
                ranks[np.argsort(exact, kind="stable")] = np.arange(row)
                _decide_all(ranks, low, slope, np.uint64(key), first_of_block + first, mask[those])

    return calling(
        _draw_rows, base, model, row, bits, chance, start, room, mask, otherwise=sort_the_rest
    )


@compiled
def limit_of(rank: int, low: float, slope: float) -> np.uint64:
    """What the number of an entry of this rank must be below."""
    return np.uint64(np.int64((np.float64(rank) * slope + low) * np.float64(1 << BITS)))


@compiled
def _top_limit(rank: int, low: float, slope: float) -> np.uint32:
    """The highest bits of a limit, of as many as `draw_tops` gives."""
    limit = limit_of(rank, low, slope) >> np.uint64(BITS - TOP)
    return np.uint32(min(limit, np.uint64((1 << TOP) - 1)))


@compiled
def _draw_rows(
    base: Array,
    model: Array,
    row: int,
    bits: int,
    chance: tuple[float, float, np.uint64],
    start: int,
    room: tuple[Array, ...],
    mask: Array,
) -> bool:
    """Draw every row, with `bits` bits of the mantissa in a bin; whether all was decided."""
    low, slope, key = chance
    before, _, _, limits, patterns, _, in_order, bins, tops, listed, _ = room
    all_decided = True
    for first in range(0, model.size, row):
        those = slice(first, first + row)
        drawn = mask[those]
        _write_patterns(base[those], model[those], patterns)
        largest, exact = _extremes(patterns)
        draw_tops(key, start + first, tops)
        if largest == 0:
            bins[:] = 0
            _compare_ranks(tops, in_order, low, slope, drawn)
        else:
            _write_bins(patterns, largest, _MANTISSA - bits, before.size - 2, bins)
            _count(bins, before)
            _write_limits(before, low, slope, limits)
            _compare(tops, bins, limits, drawn)
        count = _list_undecided(drawn, listed)
        if count > _FEW:
            _decide_heaps(low, slope, room, drawn)
            count = _list_undecided(drawn, listed)
        if count > _FEW:
            drawn[0] = _UNRANKED
            all_decided = False
            continue
        if exact:
            _decide(patterns, chance, start + first, drawn, listed[:count])
        else:
            _decide_inexact(base[those], model[those], chance, start + first, drawn, listed[:count])
        for i in range(row):
            drawn[i] = drawn[i] == _DRAWN
    return all_decided


@compiled
def _write_patterns(base: Array, model: Array, patterns: Array) -> None:
    """Write magnitude patterns; inverted where they are only close to the magnitudes.

    What a difference of float32 loses is found as Knuth does (TAOCP 2, 4.2.2, theorem B).
    """
    for i in range(patterns.size):
        value, origin = np.float32(widen(model[i])), np.float32(widen(base[i]))
        delta = value - origin
        taken = delta - value
        lost = (value - (delta - taken)) - (origin + taken)
        pattern = magnitude_bits(np.float64(delta))
        patterns[i] = pattern if lost == np.float32(0.0) else np.int32(~pattern)


@compiled
def _extremes(patterns: Array) -> tuple[np.int32, bool]:
    """The largest pattern, and whether all patterns are the magnitudes."""
    largest, least = np.int32(0), np.int32(0)
    for i in range(patterns.size):
        largest = max(largest, max(patterns[i], np.int32(~patterns[i])))
        least = min(least, patterns[i])
    return largest, least == np.int32(0)


@compiled
def _write_bins(patterns: Array, largest: np.int32, shift: int, size: int, bins: Array) -> None:
    """Write each pattern's bin.

    The first bin takes the zeros; `size` others span the octaves below the largest magnitude, the
    lowest of them with what is smaller still.
    """
    low = np.int32(np.int64(largest) - (size << shift) + 1)
    for i in range(bins.size):
        pattern = max(patterns[i], np.int32(~patterns[i]))
        above = max(np.int32(pattern - low), np.int32(0)) >> np.int32(shift)
        bins[i] = np.uint16(above) + np.uint16(pattern != 0)


@compiled
def _count(bins: Array, before: Array) -> None:
    """Make `before` the number of entries in lower bins than each, and at its end, of all."""
    before[:] = 0
    for i in range(bins.size):
        before[bins[i]] += 1
    total = np.int32(0)
    for place in range(before.size):
        count = before[place]
        before[place] = total
        total += count


@compiled
def _write_limits(before: Array, low: float, slope: float, limits: Array) -> None:
    """The highest bits of the limits at the ranks where bins begin."""
    for place in range(limits.size):
        limits[place] = _top_limit(before[place], low, slope)


@compiled
def _compare(tops: Array, bins: Array, limits: Array, mask: Array) -> None:
    """Mark what is drawn by the bounds of its bin, and what lies between them."""
    for i in range(tops.size):
        drawn = tops[i] < limits[bins[i]]
        mask[i] = np.uint8(drawn) + np.uint8(tops[i] <= limits[bins[i] + 1])


@compiled
def _list_undecided(mask: Array, listed: Array) -> np.int64:
    """Write the indices at which a mask is `_UNDECIDED`; how many there are."""
    count = np.int64(0)
    whole = mask.size // 8 * 8
    words = mask[:whole].view(np.uint64)
    for place in range(words.size):
        undecided = words[place] & _UNDECIDED_IN_ALL
        i = 8 * place
        while undecided:
            listed[count] = i
            count += np.int64(undecided & np.uint64(1))
            undecided >>= np.uint64(8)
            i += 1
    for i in range(whole, mask.size):
        if mask[i] == _UNDECIDED:
            listed[count] = i
            count += np.int64(1)
    return count


@compiled
def _decide(patterns: Array, chance: Any, start: int, mask: Array, listed: Array) -> None:
    """Decide the listed entries of a row, whose patterns are its magnitudes."""
    low, slope, key = chance
    for i in listed:
        rank = i - count_above(patterns[:i], patterns[i])
        rank += patterns.size - i - count_above(patterns[i:], patterns[i] - 1)
        mask[i] = _DRAWN * (number(key, start + i) < limit_of(rank, low, slope))


@compiled
def _decide_inexact(
    base: Array, model: Array, chance: Any, start: int, mask: Array, listed: Array
) -> None:
    """The same for any row."""
    low, slope, key = chance
    for i in listed:
        magnitude = abs(widen(model[i]) - widen(base[i]))
        rank = 0
        for j in range(base.size):
            other = abs(widen(model[j]) - widen(base[j]))
            rank += (other < magnitude) | ((other == magnitude) & (j < i))
        mask[i] = _DRAWN * (number(key, start + i) < limit_of(rank, low, slope))


@compiled
def _decide_heaps(low: float, slope: float, room: tuple[Array, ...], mask: Array) -> None:
    """Decide the entries in whose bin all are equal: they rank in their order.

    Those whose number has the same highest bits as its limit stay undecided.
    """
    before, pattern_of, following, _, patterns, ranks, _, bins, tops, listed, others = room
    for i in range(bins.size):
        pattern_of[bins[i]] = patterns[i]
    for i in range(bins.size):
        others[i] = (patterns[i] != pattern_of[bins[i]]) | (patterns[i] < 0)
    for place in range(before.size):
        following[place] = before[place]
    for i in listed[: _list_undecided(others, listed)]:
        following[bins[i]] = _MIXED
    for i in range(bins.size):
        ranks[i] = following[bins[i]]
        following[bins[i]] += 1
    _compare_ranks(tops, ranks, low, slope, mask)


@compiled
def _compare_ranks(tops: Array, ranks: Array, low: float, slope: float, mask: Array) -> None:
    """Mark what is drawn by its rank; leave the mask where that is negative."""
    for i in range(mask.size):
        limit = _top_limit(ranks[i], low, slope)
        decided = np.uint8(tops[i] < limit) + np.uint8(tops[i] <= limit)
        mask[i] = decided if ranks[i] >= 0 else mask[i]


@compiled
def _magnitudes(base: Array, model: Array, magnitudes: Array) -> None:
    for i in range(magnitudes.size):
        magnitudes[i] = abs(widen(model[i]) - widen(base[i]))


@compiled
def _decide_all(
    ranks: Array, low: float, slope: float, key: np.uint64, start: int, mask: Array
) -> None:
    for i in range(mask.size):
        mask[i] = number(key, start + i) < limit_of(ranks[i], low, slope)
