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
from merge_core.jit.simd import in_every_lane, stored
from merge_core.methods.parts.random_bits import BITS

LANES = 8
"""Numbers that are drawn at a time."""

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)

_I8, _I64 = ir.IntType(8), ir.IntType(64)


def _constant(value: int) -> Any:
    return ir.Constant(ir.VectorType(_I64, LANES), [value] * LANES)


def _mixed(builder: Any, key: Any, index: Any) -> Any:
    """SplitMix64 of `LANES` counters: 64 bits for each entry from `index` on."""
    counter = builder.add(index, ir.Constant(_I64, 1))
    first = builder.add(builder.mul(counter, ir.Constant(_I64, _GOLDEN)), key)
    steps = [lane * _GOLDEN % (1 << 64) for lane in range(LANES)]
    start = in_every_lane(builder, first, LANES)
    bits = builder.add(start, ir.Constant(ir.VectorType(_I64, LANES), steps))
    for shift, multiplier in zip(_SHIFTS[:2], _MULTIPLIERS, strict=True):
        bits = builder.xor(bits, builder.lshr(bits, _constant(shift)))
        bits = builder.mul(bits, _constant(multiplier))
    return builder.xor(bits, builder.lshr(bits, _constant(_SHIFTS[2])))


@instruction
def _draw_vector(
    typing_context: Any, key: Any, limit: Any, index: Any, mask: Any, place: Any
) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        key, limit, index, _, place = arguments
        numbers = builder.lshr(_mixed(builder, key, index), _constant(64 - BITS))
        below = builder.icmp_unsigned("<", numbers, in_every_lane(builder, limit, LANES))
        data = context.make_array(mask)(context, builder, arguments[3]).data
        stored(builder, data, place, builder.zext(below, ir.VectorType(_I8, LANES)))
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.int64, mask, types.int64), generate


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
