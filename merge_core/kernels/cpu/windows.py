"""Picking the few patterns that lie in a window out of many, in their order, and counting others.

Processors with AVX-512 have an instruction that packs the chosen entries of a vector together, and
comparisons that give a bit for each entry, to be counted at once. LLVM finds neither in a loop, so
they are named here; elsewhere a plain loop does the same, at about half the speed.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir

from merge_core.jit.calling_convention import Array
from merge_core.jit.kernel import compiled, instruction
from merge_core.jit.lazy_numba import types
from merge_core.jit.simd import in_every_lane, loaded

WIDTH = 16
"""Patterns in a vector."""

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
        entries = _loaded(context, builder, patterns, arguments[0], arguments[1], WIDTH)
        target = context.make_array(picked)(context, builder, arguments[4])
        offsets = builder.sub(entries, in_every_lane(builder, arguments[2], WIDTH))
        mask = builder.icmp_unsigned("<", offsets, in_every_lane(builder, arguments[3], WIDTH))
        store = builder.module.globals.get(_COMPRESS) or ir.Function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [_VECTOR, _I32.as_pointer(), _MASK]),
            _COMPRESS,
        )
        to = builder.bitcast(builder.gep(target.data, [arguments[5]]), _I32.as_pointer())
        builder.call(store, [offsets, to, mask])
        return _number_of(builder, mask)

    counted = types.int64
    return counted(patterns, counted, types.int32, types.int32, picked, counted), generate


@instruction
def _count_vector(typing_context: Any, patterns: Any, start: Any, limit: Any) -> Any:
    """How many of one vector of patterns lie above a limit."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        entries = _loaded(context, builder, patterns, arguments[0], arguments[1], WIDTH)
        limits = in_every_lane(builder, arguments[2], WIDTH)
        return _number_of(builder, builder.icmp_signed(">", entries, limits))

    return types.int64(patterns, types.int64, types.int32), generate


def _loaded(context: Any, builder: Any, kind: Any, array: Any, start: Any, lanes: int) -> Any:
    """The vector of integers at an index."""
    return loaded(builder, context.make_array(kind)(context, builder, array).data, start, lanes)


def _number_of(builder: Any, mask: Any) -> Any:
    """How many lanes of a mask are set."""
    bits = builder.zext(builder.bitcast(mask, ir.IntType(mask.type.count)), _I64)
    return builder.ctpop(bits)


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


@compiled
def count_one_by_one(values: Array, start: int, limit: Any) -> np.int64:
    """How many integers from the index `start` on are larger than `limit`."""
    above = np.int64(0)
    for i in range(start, values.size):
        above += values[i] > limit
    return above


@compiled
def count_by_vectors(patterns: Array, limit: Any) -> Any:
    """As `count_above`."""
    above = np.int64(0)
    whole = patterns.size // WIDTH * WIDTH
    for start in range(0, whole, WIDTH):
        above += _count_vector(patterns, start, np.int32(limit))
    return above + count_one_by_one(patterns, whole, limit)


@compiled
def _count_in_loop(patterns: Array, limit: Any) -> Any:
    return count_one_by_one(patterns, 0, limit)


_features = llvmlite.binding.get_host_cpu_features()
_HAS_MASKS = bool(_features.get("avx512f"))

pick = pick_by_vectors if _HAS_MASKS else _pick_in_loop
"""Write how far those patterns (int32) lie above `low` (int32) that do by less than `width`
(uint32) into `picked` (uint32); how many there are."""

count_above = count_by_vectors if _HAS_MASKS else _count_in_loop
"""How many patterns (int32) are larger than `limit` (int32)."""
