"""Picking the few patterns that lie in a window out of many, in their order.

Processors with AVX-512 have an instruction that packs the chosen entries of a vector together. LLVM
does not find it in a loop, so it is named here; elsewhere a plain loop does the same, at about half
the speed.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types

from merge_core.fused.compiling import Array, compiled, instruction

WIDTH = 16
"""Patterns in a vector. `picked` needs room for one more than there are patterns."""

_I1, _I32, _I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
_VECTOR, _MASK = ir.VectorType(_I32, WIDTH), ir.VectorType(_I1, WIDTH)
_COMPRESS = f"llvm.masked.compressstore.v{WIDTH}i32"


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
        source, target = (
            context.make_array(signature.args[place])(context, builder, arguments[place])
            for place in (0, 4)
        )
        place = builder.bitcast(builder.gep(source.data, [arguments[1]]), _VECTOR.as_pointer())
        offsets = builder.sub(builder.load(place, align=4), _in_all(builder, arguments[2]))
        mask = builder.icmp_unsigned("<", offsets, _in_all(builder, arguments[3]))
        store = builder.module.globals.get(_COMPRESS) or ir.Function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [_VECTOR, _I32.as_pointer(), _MASK]),
            _COMPRESS,
        )
        to = builder.bitcast(builder.gep(target.data, [arguments[5]]), _I32.as_pointer())
        builder.call(store, [offsets, to, mask])
        return builder.ctpop(builder.zext(builder.bitcast(mask, ir.IntType(WIDTH)), _I64))

    counted = types.int64
    return counted(patterns, counted, types.int32, types.int32, picked, counted), generate


def _in_all(builder: Any, value: Any) -> Any:
    """A vector that holds one value in every place."""
    nothing = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(_VECTOR, [0] * WIDTH))


@compiled
def pick_by_vectors(patterns: Array, low: Any, width: Any, picked: Array) -> Any:
    """As `pick`."""
    count = np.int64(0)
    whole = patterns.size // WIDTH * WIDTH
    for start in range(0, whole, WIDTH):
        count += _pick_vector(patterns, start, np.int32(low), np.int32(width), picked, count)
    return pick_one_by_one(patterns, whole, low, width, picked, count)


@compiled
def _pick_in_loop(patterns: Array, low: Any, width: Any, picked: Array) -> Any:
    return pick_one_by_one(patterns, 0, low, width, picked, np.int64(0))


pick = pick_by_vectors if llvmlite.binding.get_host_cpu_features().get("avx512f") else _pick_in_loop
"""Write how far those patterns (int32) lie above `low` (int32) that do by less than `width`
(uint32) into `picked` (uint32); how many there are."""
