"""The random numbers of `methods.parts.random_bits` in compiled loops: a vector of them at a time.

LLVM vectorises the loop by itself, but with vectors of 256 bits, and a product for what is only a
step: it takes twice as long. So the vectors are written out; processors without such long ones get
two or four short ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from merge_core.jit.calling_convention import Array
from merge_core.jit.kernel import compiled, instruction
from merge_core.jit.lazy_numba import types
from merge_core.jit.simd import gathered, in_every_lane, loaded, stored
from merge_core.methods.parts.random_bits import BITS

LANES = 8
"""Numbers that are drawn at a time."""
WIDE = 16
"""The same where bounds are looked up for them."""
TOP = 16
"""Highest bits of a number that are compared with bounds: enough to decide most entries."""

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


def _constant(value: int, lanes: int, kind: Any = _I64) -> Any:
    return ir.Constant(ir.VectorType(kind, lanes), [value] * lanes)


def _mixed(builder: Any, key: Any, index: Any, lanes: int) -> Any:
    """SplitMix64 of `lanes` counters, but for its last step, which leaves the highest bits alone:
    64 bits for each entry from `index` on."""
    counter = builder.add(index, ir.Constant(_I64, 1))
    first = builder.add(builder.mul(counter, ir.Constant(_I64, _GOLDEN)), key)
    steps = [lane * _GOLDEN % (1 << 64) for lane in range(lanes)]
    start = in_every_lane(builder, first, lanes)
    bits = builder.add(start, ir.Constant(ir.VectorType(_I64, lanes), steps))
    for shift, multiplier in zip(_SHIFTS[:2], _MULTIPLIERS, strict=True):
        bits = builder.xor(bits, builder.lshr(bits, _constant(shift, lanes)))
        bits = builder.mul(bits, _constant(multiplier, lanes))
    return bits


@instruction
def _draw_vector(
    typing_context: Any, key: Any, limit: Any, index: Any, mask: Any, place: Any
) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        key, limit, index, _, place = arguments
        bits = _mixed(builder, key, index, LANES)
        bits = builder.xor(bits, builder.lshr(bits, _constant(_SHIFTS[2], LANES)))
        numbers = builder.lshr(bits, _constant(64 - BITS, LANES))
        below = builder.icmp_unsigned("<", numbers, in_every_lane(builder, limit, LANES))
        data = context.make_array(mask)(context, builder, arguments[3]).data
        stored(builder, data, place, builder.zext(below, ir.VectorType(_I8, LANES)))
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.int64, mask, types.int64), generate


@instruction
def _draw_between_vector(
    typing_context: Any, key: Any, index: Any, bins: Any, bounds: Any, mask: Any, place: Any
) -> Any:
    """Write what is drawn for sure; a bit for each entry that is undecided."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        key, index, *_, place = arguments
        of_bins, of_bounds, of_mask = (
            context.make_array(kind)(context, builder, array).data
            for kind, array in zip((bins, bounds, mask), arguments[2:5], strict=True)
        )
        bits = builder.lshr(_mixed(builder, key, index, WIDE), _constant(64 - TOP, WIDE))
        tops = builder.trunc(bits, ir.VectorType(_I32, WIDE))
        numbers = loaded(builder, of_bins, place, WIDE)
        both = gathered(builder, of_bounds, builder.zext(numbers, ir.VectorType(_I32, WIDE)))
        low = builder.lshr(both, _constant(TOP, WIDE, _I32))
        high = builder.and_(both, _constant((1 << TOP) - 1, WIDE, _I32))
        drawn = builder.icmp_unsigned("<", tops, low)
        possible = builder.icmp_unsigned("<=", tops, high)
        stored(builder, of_mask, place, builder.zext(drawn, ir.VectorType(_I8, WIDE)))
        undecided = builder.and_(possible, builder.not_(drawn))
        return builder.zext(builder.bitcast(undecided, _I16), _I64)

    integer = types.int64
    return types.uint64(types.uint64, integer, bins, bounds, mask, integer), generate


@instruction
def _lowest(typing_context: Any, bits: Any) -> Any:
    """The place of the lowest bit that is set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@compiled
def number(key: Any, index: Any) -> Any:
    """The random number of one entry (uint64): an integer of `BITS` bits."""
    bits = np.uint64(index + 1) * np.uint64(_GOLDEN) + np.uint64(key)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(_MULTIPLIERS[0])
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(_MULTIPLIERS[1])
    return (bits ^ (bits >> np.uint64(31))) >> np.uint64(64 - BITS)


@compiled
def draw_mask(key: Any, limit: Any, start: int, mask: Array) -> None:
    """Write into `mask` (uint8) which entries from `start` on have a number below `limit`."""
    whole = mask.size // LANES * LANES
    for i in range(0, whole, LANES):
        _draw_vector(key, limit, start + i, mask, i)
    for i in range(whole, mask.size):
        mask[i] = number(key, start + i) < np.uint64(limit)


@compiled
def draw_between(
    key: Any, start: int, bins: Array, bounds: Array, mask: Array, undecided: Array
) -> Any:
    """Write into `mask` (uint8) which entries from `start` on are drawn by the bounds of their bin.

    Args:
        bounds: for each bin (uint32): entries whose `TOP` highest bits are below its upper half are
            drawn, those above its lower half are not.
        undecided: where the indices of the others are written (int64).

    Returns:
        How many are undecided; their mask is 0.
    """
    count = np.int64(0)
    if mask.size < WIDE:
        for i in range(mask.size):
            top = number(key, start + i) >> np.uint64(BITS - TOP)
            both = np.uint64(bounds[bins[i]])
            mask[i] = top < both >> np.uint64(TOP)
            undecided[count] = i
            count += np.int64((mask[i] == 0) & (top <= both & np.uint64((1 << TOP) - 1)))
        return count
    for first in range(0, mask.size, WIDE):
        # The last vector repeats some of the one before.
        place = min(first, mask.size - WIDE)
        bits = _draw_between_vector(key, start + place, bins, bounds, mask, place)
        bits >>= np.uint64(first - place)
        while bits:
            undecided[count] = first + _lowest(bits)
            count += np.int64(1)
            bits &= bits - np.uint64(1)
    return count
