"""Magnitude patterns of a row's differences, and the bins that they are counted in.

The loops are written out as vectors of 512 bits: with those that LLVM prefers, they take twice as
many instructions. The last vector of a row repeats some of the one before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from merge_core.jit.calling_convention import Array
from merge_core.jit.formats import magnitude_bits, widen, widened_vector
from merge_core.jit.kernel import compiled, instruction
from merge_core.jit.lazy_numba import types
from merge_core.jit.simd import in_every_lane, loaded, stored

LANES = 16

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_PATTERNS, _BINS = ir.VectorType(_I32, LANES), ir.VectorType(_I16, LANES)


def _constant(value: int) -> Any:
    return ir.Constant(_PATTERNS, [value] * LANES)


@compiled
def write_patterns(base: Array, model: Array, patterns: Array) -> None:
    """Write magnitude patterns; inverted where they are only close to the magnitudes.

    A difference of float32 is exact if either number is found again from it and the other: what it
    has lost is missing in one of the two sums, since the one that starts from the larger number is
    exact (Dekker 1971, A floating-point technique for extending the available precision).
    """
    if patterns.size >= LANES:
        for first in range(0, patterns.size, LANES):
            _write_patterns(base, model, patterns, min(first, patterns.size - LANES))
        return
    for i in range(patterns.size):
        value, origin = np.float32(widen(model[i])), np.float32(widen(base[i]))
        delta = value - origin
        exact = (value - delta == origin) & (origin + delta == value)
        pattern = magnitude_bits(np.float64(delta))
        patterns[i] = pattern if exact else np.int32(~pattern)


@instruction
def _write_patterns(typing_context: Any, base: Any, model: Any, patterns: Any, place: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        *arrays, place = arguments
        origin, value = (
            widened_vector(
                builder,
                kind.dtype,
                loaded(
                    builder, context.make_array(kind)(context, builder, array).data, place, LANES
                ),
            )
            for kind, array in zip((base, model), arrays[:2], strict=True)
        )
        delta = builder.fsub(value, origin)
        exact = builder.and_(
            builder.fcmp_ordered("==", builder.fsub(value, delta), origin),
            builder.fcmp_ordered("==", builder.fadd(origin, delta), value),
        )
        pattern = builder.and_(builder.bitcast(delta, _PATTERNS), _constant(0x7FFFFFFF))
        pattern = builder.select(exact, pattern, builder.not_(pattern))
        to = context.make_array(patterns)(context, builder, arrays[2]).data
        stored(builder, to, place, pattern)
        return context.get_dummy_value()

    return types.void(base, model, patterns, types.int64), generate


@compiled
def extremes(patterns: Array) -> tuple[np.int32, bool]:
    """The largest pattern, and whether all patterns are the magnitudes."""
    largest, least = np.int32(0), np.int32(0)
    for i in range(patterns.size):
        largest = max(largest, max(patterns[i], np.int32(~patterns[i])))
        least = min(least, patterns[i])
    return largest, least == np.int32(0)


@compiled
def write_bins(patterns: Array, largest: np.int32, shift: int, cells: int, bins: Array) -> None:
    """Write each pattern's bin.

    The first bin takes the zeros. `cells` span the octaves below the largest magnitude, each with
    two bins: one for the lowest pattern of the cell, one for all others. The lowest bin of them
    takes what is smaller still, too.
    """
    low = np.int32(2 * ((np.int64(largest) >> shift) - cells + 1))
    if bins.size >= LANES:
        for first in range(0, bins.size, LANES):
            _write_bins(patterns, np.int32(shift), low, bins, min(first, bins.size - LANES))
        return
    rest = (1 << shift) - 1
    for i in range(bins.size):
        pattern = np.int64(max(patterns[i], np.int32(~patterns[i])))
        above = (pattern >> shift) + ((pattern + rest) >> shift) - low
        bins[i] = max(above, 0) + (pattern != 0)


@instruction
def _write_bins(
    typing_context: Any, patterns: Any, shift: Any, low: Any, bins: Any, place: Any
) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        of_patterns, shift, low, of_bins, place = arguments
        source = context.make_array(patterns)(context, builder, of_patterns).data
        found = loaded(builder, source, place, LANES)
        pattern = builder.xor(found, builder.ashr(found, _constant(31)))
        one = ir.Constant(_I32, 1)
        rest = in_every_lane(builder, builder.sub(builder.shl(one, shift), one), LANES)
        by = in_every_lane(builder, shift, LANES)
        down = builder.lshr(pattern, by)
        up = builder.lshr(builder.add(pattern, rest), by)
        above = builder.sub(builder.add(down, up), in_every_lane(builder, low, LANES))
        is_above = builder.icmp_signed(">", above, _constant(0))
        above = builder.select(is_above, above, _constant(0))
        # 1 for all patterns but 0, as LLVM would not write it: through a mask and back.
        nonzero = builder.lshr(builder.neg(pattern), _constant(31))
        data = context.make_array(bins)(context, builder, of_bins).data
        stored(builder, data, place, builder.trunc(builder.add(above, nonzero), _BINS))
        return context.get_dummy_value()

    return types.void(patterns, types.int32, types.int32, bins, types.int64), generate


@compiled
def count_bins(bins: Array, before: Array) -> None:
    """Make `before` the number of entries in lower bins than each, and at its end, of all."""
    before[:] = 0
    for i in range(bins.size):
        before[bins[i]] += 1
    total = np.int32(0)
    for place in range(before.size):
        count = before[place]
        before[place] = total
        total += count
