"""Picking the few patterns that lie in a window out of many, in their order, and counting others.

Processors with AVX-512 have an instruction that packs the chosen entries of a vector together. LLVM
does not find it in a loop, so it is named here; elsewhere a plain loop does the same, at a quarter
of the speed.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir

from merge_core.jit.calling_convention import Array
from merge_core.jit.kernel import compiled, instruction
from merge_core.jit.lazy_numba import types

WIDTH = 16
"""Patterns in a vector."""

_I32 = ir.IntType(32)
_VECTOR, _MASK = ir.VectorType(_I32, WIDTH), ir.VectorType(ir.IntType(1), WIDTH)
_COMPRESS = f"llvm.x86.avx512.mask.compress.v{WIDTH}i32"
"""Into a register: the form that writes to memory takes a hundred cycles and more on AMD's Zen 4,
where it is microcode. What lies behind the chosen entries is overwritten by the next vector."""


@compiled
def pick_one_by_one(
    patterns: Array, start: int, low: Any, width: Any, picked: Array, count: np.int64
) -> np.int64:
    """As `pick`, from the index `start` on, with `count` of them picked before."""
    for i in range(start, patterns.size):
        offset = np.uint32(np.uint32(patterns[i]) - np.uint32(low))
        picked[count] = offset
        count += np.int64(offset < width)
    return count


@instruction
def _pick_vector(
    typing_context: Any, patterns: Any, start: Any, low: Any, width: Any, picked: Any, count: Any
) -> Any:
    """The same for one vector of patterns; how many of them were picked."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def vector_at(kind: Any, array: Any, place: Any) -> Any:
            data = context.make_array(kind)(context, builder, array).data
            return builder.bitcast(builder.gep(data, [place]), _VECTOR.as_pointer())

        def in_every_lane(value: Any) -> Any:
            nothing = ir.Constant(_VECTOR, ir.Undefined)
            first = builder.insert_element(nothing, value, ir.Constant(_I32, 0))
            return builder.shuffle_vector(first, nothing, ir.Constant(_VECTOR, [0] * WIDTH))

        entries = builder.load(vector_at(patterns, arguments[0], arguments[1]), align=1)
        offsets = builder.sub(entries, in_every_lane(arguments[2]))
        mask = builder.icmp_unsigned("<", offsets, in_every_lane(arguments[3]))
        compress = builder.module.globals.get(_COMPRESS) or ir.Function(
            builder.module, ir.FunctionType(_VECTOR, [_VECTOR, _VECTOR, _MASK]), _COMPRESS
        )
        together = builder.call(compress, [offsets, offsets, mask])
        builder.store(together, vector_at(picked, arguments[4], arguments[5]), align=1)
        bits = builder.bitcast(mask, ir.IntType(WIDTH))
        return builder.ctpop(builder.zext(bits, ir.IntType(64)))

    counted = types.int64
    return counted(patterns, counted, types.int32, types.int32, picked, counted), generate


@compiled
def _pick_by_vectors(patterns: Array, low: Any, width: Any, picked: Array) -> Any:
    count = np.int64(0)
    whole = patterns.size // WIDTH * WIDTH
    for start in range(0, whole, WIDTH):
        count += _pick_vector(patterns, start, np.int32(low), np.int32(width), picked, count)
    return pick_one_by_one(patterns, whole, low, width, picked, count)


@compiled
def _pick_in_loop(patterns: Array, low: Any, width: Any, picked: Array) -> Any:
    return pick_one_by_one(patterns, 0, low, width, picked, np.int64(0))


pick = (
    _pick_by_vectors if llvmlite.binding.get_host_cpu_features().get("avx512f") else _pick_in_loop
)
"""Write how far those patterns (int32) lie above `low` (int32) that do by less than `width`
(uint32) into `picked` (uint32); how many there are. `picked` needs room for one more than there
are patterns."""


@compiled
def count_above(patterns: Array, limit: Any) -> Any:
    """How many patterns (int32) are larger than `limit` (int32)."""
    above = np.int64(0)
    for i in range(patterns.size):
        above += patterns[i] > limit
    return above
