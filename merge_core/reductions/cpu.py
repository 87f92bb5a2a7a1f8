"""Sums over a tensor, added up in an order that no block size or number of threads changes.

Elements are added step by step (`CHUNK` elements, or whole rows), and within a step in `LANES`
interleaved partial sums, so that a vector unit can do it; the partial sums are added in order.
"""

from __future__ import annotations

from typing import Any

from merge_core.jit.calling_convention import Array
from merge_core.jit.formats import widen
from merge_core.jit.kernel import compiled
from merge_core.jit.stack_arrays import array_on_stack
from merge_core.reductions.constants import LANES

lanes_on_stack = array_on_stack("float64", LANES)


@compiled
def _total(lanes: Array) -> float:
    total = 0.0
    for lane in range(lanes.size):
        total += lanes[lane]
    return total


@compiled
def sum_in_lanes(values: Array) -> Any:
    """The sum of one step's values (float64)."""
    lanes = lanes_on_stack()
    lanes[:] = 0.0
    whole = values.size // LANES * LANES
    for first in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] += values[first + lane]
    for i in range(whole, values.size):
        lanes[i - whole] += values[i]
    return _total(lanes)


@compiled
def _add_norms(
    base: Array,
    model: Array,
    mask: Array,
    squared: bool | None,
    before: Array,
    after: Array,
) -> None:
    """Add at most `LANES` entries of a task vector, before and after masking, to their lanes."""
    for i in range(model.size):
        delta = widen(model[i]) - widen(base[i])
        size = abs(delta) if squared is None else delta * delta
        before[i] += size
        after[i] += size if mask[i] != 0 else 0.0


@compiled
def norms_in_steps(
    base: Array,
    model: Array,
    mask: Array,
    squared: bool | None,
    step: int,
    totals: Array,
) -> None:
    """Add to `totals` (float64, 2) a block's norms before and after masking, step by step.

    Args:
        mask: uint8, 1 for the entries that stay.
        squared: None to add up magnitudes, True for their squares.
    """
    before, after = lanes_on_stack(), lanes_on_stack()
    for first in range(0, model.size, step):
        last = min(model.size, first + step)
        before[:] = 0.0
        after[:] = 0.0
        for at in range(first, last, LANES):
            end = min(at + LANES, last)
            run = slice(at, end)
            _add_norms(base[run], model[run], mask[run], squared, before, after)
        totals[0] += _total(before)
        totals[1] += _total(after)


@compiled
def _add_squares(base: Array, model: Array, mask: Array, lanes: Array) -> None:
    """Add at most `LANES` squares of the entries of a task vector that stay to their lanes."""
    for i in range(model.size):
        delta = widen(model[i]) - widen(base[i])
        lanes[i] += delta * delta if mask[i] != 0 else 0.0


@compiled
def squares_in_steps(base: Array, model: Array, mask: Array, step: int, total: Array) -> None:
    """Add to `total` (float64, 1) the squares of a block's entries that stay, step by step.

    Args:
        mask: uint8, 1 for the entries that stay.
    """
    lanes = lanes_on_stack()
    for first in range(0, model.size, step):
        last = min(model.size, first + step)
        lanes[:] = 0.0
        for at in range(first, last, LANES):
            run = slice(at, min(at + LANES, last))
            _add_squares(base[run], model[run], mask[run], lanes)
        total[0] += _total(lanes)


@compiled
def _add_products(first: Array, second: Array, base: Array | None, lanes: Array) -> None:
    """Add at most `LANES` products of two vectors, less the base if any, to their lanes."""
    for i in range(first.size):
        if base is None:
            lanes[i] += widen(first[i]) * widen(second[i])
        else:
            origin = widen(base[i])
            lanes[i] += (widen(first[i]) - origin) * (widen(second[i]) - origin)


@compiled
def dot_in_steps(first: Array, second: Array, base: Array | None, step: int, total: Array) -> None:
    """Add to `total` (float64, 1) a block's dot product of two models, or of their task vectors,
    step by step."""
    lanes = lanes_on_stack()
    for start in range(0, first.size, step):
        last = min(first.size, start + step)
        lanes[:] = 0.0
        for at in range(start, last, LANES):
            end = min(at + LANES, last)
            if base is None:
                _add_products(first[at:end], second[at:end], None, lanes)
            else:
                _add_products(first[at:end], second[at:end], base[at:end], lanes)
        total[0] += _total(lanes)


@compiled
def _add_products_of_two(
    first: Array, second: Array, base: Array | None, lanes: tuple[Array, Array, Array]
) -> None:
    """Add at most `LANES` products of two vectors, each with each, to their lanes."""
    squares, products, others = lanes
    for i in range(first.size):
        one, other = widen(first[i]), widen(second[i])
        if base is not None:
            origin = widen(base[i])
            one, other = one - origin, other - origin
        squares[i] += one * one
        products[i] += one * other
        others[i] += other * other


@compiled
def gram_of_two_in_steps(
    first: Array, second: Array, base: Array | None, step: int, totals: Array
) -> None:
    """Add a block's three dot products to `totals` (float64, 3): as `dot_in_steps`, in one pass."""
    lanes = (lanes_on_stack(), lanes_on_stack(), lanes_on_stack())
    for start in range(0, first.size, step):
        last = min(first.size, start + step)
        for product in range(3):
            lanes[product][:] = 0.0
        for at in range(start, last, LANES):
            end = min(at + LANES, last)
            if base is None:
                _add_products_of_two(first[at:end], second[at:end], None, lanes)
            else:
                _add_products_of_two(first[at:end], second[at:end], base[at:end], lanes)
        for product in range(3):
            totals[product] += _total(lanes[product])
