"""Drawing entries with limits that grow with their magnitude's rank in a row.

A row's entries are sorted by the bits in which its magnitudes differ, each with its place below
them: a radix sort in rounds of up to 11 bits. Weights of 16 bits have few distinct differences,
which are short numbers, so that two or three rounds do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from merge_core.jit.calling_convention import Array
from merge_core.jit.formats import widen
from merge_core.jit.kernel import StridedArgument, compiled
from merge_core.kernels.cpu.program import Step, calling
from merge_core.kernels.cpu.random_numbers import number
from merge_core.methods.parts.random_bits import BITS

_MOST_BITS = 11
"""Sorted by in a round: the counters fit a core's first cache."""
_UNDECIDED = 2
"""The mark on the first entry of a row whose magnitudes and places need more than 64 bits."""


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
    chance = (low, slope, np.uint64(key))
    width = max(4, row.bit_length())
    counts, keys = np.empty(1 << min(_MOST_BITS, width), np.uint32), np.empty((2, row), np.uint64)
    places, ranks = np.uint64((1 << width) - 1), np.empty(row, np.int32)

    def sort_the_rest(first_of_block: int) -> None:
        for first in range(0, model.size, row):
            those = slice(first, first + row)
            if mask[first] == _UNDECIDED:
                exact = np.empty(row)
                _write_magnitudes(base[those], model[those], exact)
                order = np.argsort(exact, kind="stable").astype(np.uint64)
                _draw(order, places, ranks, chance, first_of_block + first, mask[those])

    room = (counts, keys[0], keys[1], ranks)
    return calling(
        _draw_rows, base, model, row, width, chance, start, room, mask, on_failure=sort_the_rest
    )


@compiled
def limit_of(rank: int, low: float, slope: float) -> np.uint64:
    """What the number of an entry of this rank must be below."""
    return np.uint64(np.int64((np.float64(rank) * slope + low) * np.float64(1 << BITS)))


@compiled
def _draw_rows(
    base: Array,
    model: Array,
    row: int,
    width: int,
    chance: tuple[float, float, np.uint64],
    start: int,
    room: tuple[Array, ...],
    mask: Array,
) -> bool:
    """Draw every row, with `width` bits for a place; whether all was decided."""
    all_decided = True
    for first in range(0, model.size, row):
        those = slice(first, first + row)
        _write_magnitudes(base[those], model[those], room[1].view(np.float64))
        if not _draw_row(np.uint64(width), chance, start + first, room, mask[those]):
            mask[first] = _UNDECIDED
            all_decided = False
    return all_decided


@compiled
def _write_magnitudes(base: Array, model: Array, magnitudes: Array) -> None:
    for i in range(magnitudes.size):
        magnitudes[i] = abs(widen(model[i]) - widen(base[i]))


@compiled
def _draw_row(width: Any, chance: Any, start: int, room: Any, mask: Array) -> bool:
    """Sort a row, of which `room` holds the magnitudes, and draw it; False if keys are too long."""
    counts, keys, more, ranks = room
    one = np.uint64(1)
    differing = np.uint64(0)
    for i in range(keys.size):
        differing |= keys[i] ^ keys[0]
    shift, length = np.uint64(0), 0
    while differing and not differing & one:
        shift += one
        differing >>= one
    while differing:
        length += 1
        differing >>= one
    if length + width > 64:
        return False
    for i in range(keys.size):
        keys[i] = (keys[i] >> shift) << width | np.uint64(i)
    last = np.uint64(counts.size - 1)
    digit = np.int64(min(_MOST_BITS, width))
    for turn in range(-(-length // digit)):
        at = width + np.uint64(turn * digit)
        counts[:] = 0
        for i in range(keys.size):
            counts[(keys[i] >> at) & last] += np.uint32(1)
        total = np.uint32(0)
        for k in range(counts.size):
            count = counts[k]
            counts[k] = total
            total += count
        for i in range(keys.size):
            k = (keys[i] >> at) & last
            to = counts[k]
            counts[k] = to + np.uint32(1)
            more[to] = keys[i]
        keys, more = more, keys
    _draw(keys, (one << width) - one, ranks, chance, start, mask)
    return True


@compiled
def _draw(order: Array, places: Any, ranks: Array, chance: Any, start: int, mask: Array) -> None:
    """Draw the entries of a row; those bits of `order` are places, sorted by magnitude."""
    low, slope, key = chance
    for rank in range(order.size):
        ranks[order[rank] & places] = rank
    for i in range(ranks.size):
        mask[i] = number(key, start + i) < limit_of(ranks[i], low, slope)
