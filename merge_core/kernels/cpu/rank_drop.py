"""Drawing entries with limits that grow with their magnitude's rank in a row, mostly unsorted.

A row's magnitudes are counted in bins, which bounds the rank of every entry, and so the limit that
its random number is compared with. Few numbers lie between the bounds of their bin: only for those
is the rank itself found. Weights of 16 bits have few distinct differences, which are short numbers:
every second bin is for a single one of these, and its entries rank in their order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from merge_core.jit.calling_convention import Array
from merge_core.jit.formats import widen
from merge_core.jit.kernel import StridedArgument, compiled
from merge_core.kernels.cpu.program import Step, calling
from merge_core.kernels.cpu.random_numbers import TOP, draw_between, number
from merge_core.kernels.cpu.rank_bins import count_bins, extremes, write_bins, write_patterns
from merge_core.kernels.cpu.windows import count_above, count_equal
from merge_core.methods.parts.random_bits import BITS

_OCTAVES = 8
"""Powers of two below a row's largest magnitude that are divided into bins of their own."""
_PER_BIN = 4
"""Entries of a row for each bin."""
_MOST_BITS = 11
"""Of the mantissa, in two bins: bins are numbered with 16 bits."""
_MANTISSA = 23
"""Bits of a magnitude pattern below its exponent."""
_FEW = 100
"""Entries of a row whose ranks are found one by one."""
_FEW_EQUAL = 250
"""The same, if it is enough to count the equal ones."""
_UNRANKED = 3
"""The mark on the first entry of a row that is to be sorted."""
_MIXED = -1 << 30


def drawing_by_rank(
    base: Array,
    model: Array,
    row: int,
    low: float,
    slope: float,
    key: int,
    start: StridedArgument,
    mask: Array,
) -> Step:
    """What draws entries of some whole rows into `mask` (uint8).

    An entry is when its number (`random_bits`) is below `low + slope * rank` times 2**BITS; ranks
    count from 0 for the smallest magnitude of a row, equal ones in their order.

    Args:
        base: stored values; the magnitudes are those of `model` less these.
        model: stored values, as many.
        row: elements of a row.
        slope: not negative.
        start: index of the first entry.
    """
    bits = min(_MOST_BITS, max(2, (row // _PER_BIN // _OCTAVES).bit_length() - 2))
    chance = (low, slope, np.uint64(key))
    # One bin more for zeros, of which there may be many, and the end of the last.
    size = 2 * (_OCTAVES << bits) + 2
    of_bins = (*np.empty((3, size), np.int32), np.empty(size, np.uint32))
    integers = np.empty((2, row), np.int32)
    room = (*of_bins, *integers, np.empty(row, np.uint16), np.empty(row, np.int64))

    def sort_the_rest(first_of_block: int) -> None:
        for first in range(0, model.size, row):
            those = slice(first, first + row)
            if mask[first] == _UNRANKED:
                exact = np.empty(row)
                _magnitudes(base[those], model[those], exact)
                ranks = np.empty(row, np.int64)
                ranks[np.argsort(exact, kind="stable")] = np.arange(row)
                _decide_all(ranks, chance, first_of_block + first, mask[those])

    return calling(
        _draw_rows, base, model, row, bits, chance, start, room, mask, on_failure=sort_the_rest
    )


@compiled
def limit_of(rank: int, low: float, slope: float) -> np.uint64:
    """What the number of an entry of this rank must be below."""
    return np.uint64(np.int64((np.float64(rank) * slope + low) * np.float64(1 << BITS)))


@compiled
def _is_drawn(rank: int, chance: Any, index: int) -> Any:
    low, slope, key = chance
    return number(key, index) < limit_of(rank, low, slope)


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
    before, _, _, bounds, patterns, _, bins, listed = room
    all_decided = True
    for first in range(0, model.size, row):
        those = slice(first, first + row)
        drawn, begin = mask[those], start + first
        write_patterns(base[those], model[those], patterns)
        largest, exact = extremes(patterns)
        if largest == 0:
            _decide_in_order(chance, begin, drawn)
            continue
        write_bins(patterns, largest, _MANTISSA - bits, before.size // 2 - 1, bins)
        count_bins(bins, before)
        _write_bounds(before, low, slope, bounds)
        count = draw_between(key, begin, bins, bounds, drawn, listed)
        if exact and count <= _FEW_EQUAL:
            count = _decide_equals(bins, before, chance, begin, drawn, listed[:count])
        if count > _FEW:
            count = _decide_heaps(room, chance, begin, drawn, listed[:count])
        if count > _FEW:
            drawn[0] = _UNRANKED
            all_decided = False
        elif exact:
            _decide(patterns, chance, begin, drawn, listed[:count])
        else:
            these = (base[those], model[those], patterns)
            _decide_inexact(these, chance, begin, drawn, listed[:count])
    return all_decided


@compiled
def _write_bounds(before: Array, low: float, slope: float, bounds: Array) -> None:
    """The highest bits of the limits at the ranks where bins begin and end, see `draw_between`."""
    most = np.uint64((1 << TOP) - 1)
    for place in range(bounds.size):
        limit = min(limit_of(before[place], low, slope) >> np.uint64(BITS - TOP), most)
        bounds[place] = limit << np.uint64(TOP)
    for place in range(bounds.size - 1):
        bounds[place] |= bounds[place + 1] >> np.uint32(TOP)


@compiled
def _decide_in_order(chance: Any, start: int, mask: Array) -> None:
    """Decide all entries of a row of equals."""
    for i in range(mask.size):
        mask[i] = _is_drawn(i, chance, start + i)


@compiled
def _decide_equals(
    bins: Array, before: Array, chance: Any, start: int, mask: Array, listed: Array
) -> np.int64:
    """Decide the listed entries in whose bin all are equal; how many are left at the list's begin.

    Only for rows whose patterns are the magnitudes.
    """
    left = np.int64(0)
    for i in listed:
        place = np.int64(bins[i])
        if place == 0 or (place & 1 and place > 1):
            if 2 * i < bins.size:
                rank = before[place] + count_equal(bins[:i], bins[i])
            else:
                rank = before[place + 1] - count_equal(bins[i:], bins[i])
            mask[i] = _is_drawn(rank, chance, start + i)
        else:
            listed[left] = i
            left += 1
    return left


@compiled
def _decide(patterns: Array, chance: Any, start: int, mask: Array, listed: Array) -> None:
    """Decide the listed entries of a row, whose patterns are its magnitudes."""
    for i in listed:
        rank = i - count_above(patterns[:i], patterns[i])
        rank += patterns.size - i - count_above(patterns[i:], patterns[i] - 1)
        mask[i] = _is_drawn(rank, chance, start + i)


@compiled
def _decide_inexact(
    row: tuple[Array, Array, Array], chance: Any, start: int, mask: Array, listed: Array
) -> None:
    """The same for any row: stored values of the base and the model, and patterns."""
    base, model, patterns = row
    if listed.size > 0:
        for i in range(patterns.size):
            patterns[i] = max(patterns[i], np.int32(~patterns[i]))
    for i in listed:
        above = count_above(patterns, patterns[i])
        from_here = count_above(patterns, patterns[i] - 1)
        rank = patterns.size - from_here
        if from_here - above > 1:
            rank += _rank_among_alike(base, model, patterns, i)
        mask[i] = _is_drawn(rank, chance, start + i)


@compiled
def _rank_among_alike(base: Array, model: Array, patterns: Array, i: np.int64) -> np.int64:
    """The rank of an entry among those whose magnitude is rounded to the same pattern."""
    magnitude = abs(widen(model[i]) - widen(base[i]))
    rank = np.int64(0)
    for j in range(patterns.size):
        if patterns[j] == patterns[i]:
            other = abs(widen(model[j]) - widen(base[j]))
            rank += (other < magnitude) | ((other == magnitude) & (j < i))
    return rank


@compiled
def _decide_heaps(
    room: tuple[Array, ...], chance: Any, start: int, mask: Array, listed: Array
) -> np.int64:
    """As `_decide_equals`, for many entries, of any row and in any bin of equals."""
    before, pattern_of, following, _, patterns, ranks, bins, _ = room
    for i in range(bins.size):
        pattern_of[bins[i]] = patterns[i]
    for place in range(before.size):
        following[place] = before[place]
    end = np.int64(following.size - 1)
    for i in range(bins.size):
        differs = (patterns[i] != pattern_of[bins[i]]) | (patterns[i] < 0)
        following[np.int64(bins[i]) if differs else end] = _MIXED
    for i in range(bins.size):
        ranks[i] = following[bins[i]]
        following[bins[i]] += 1
    left = np.int64(0)
    for i in listed:
        if ranks[i] >= 0:
            mask[i] = _is_drawn(ranks[i], chance, start + i)
        else:
            listed[left] = i
            left += 1
    return left


@compiled
def _magnitudes(base: Array, model: Array, magnitudes: Array) -> None:
    for i in range(magnitudes.size):
        magnitudes[i] = abs(widen(model[i]) - widen(base[i]))


@compiled
def _decide_all(ranks: Array, chance: Any, start: int, mask: Array) -> None:
    for i in range(mask.size):
        mask[i] = _is_drawn(ranks[i], chance, start + i)
