"""Stored values as kernels see them: numpy arrays whose dtype stands for the stored format.

uint16 holds bfloat16 patterns, int16 float16 patterns (numpy knows no bfloat16, and numba computes
with neither); float32 and float64 are themselves. `widen` and `narrow` convert single values inside
compiled loops; both become a few vector instructions.

Rounding float64 to bfloat16 happens once, to nearest, ties to even, in integer arithmetic on the
float64 pattern: 45 of the 52 mantissa bits go. That is right for zero and for all normal results.
`fold` remembers whether a subnormal or overflowing one was among them; the caller then rounds the
block again by `narrow_exactly`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from merge_core.fused.compiling import Array, compiled, instruction

STORED = {"BF16": np.uint16, "F16": np.int16, "F32": np.float32, "F64": np.float64}
"""For each safetensors code the numpy dtype that stands for it here."""

PLAIN = np.int32(0)
"""The start of `fold`."""

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_HALF, _FLOAT, _DOUBLE = ir.HalfType(), ir.FloatType(), ir.DoubleType()

_DROPPED = 45
"""Mantissa bits of a float64 that a bfloat16 has no room for."""
_REBIAS = (1023 - 127) << 7
_FEWEST, _MOST = _REBIAS + 0x80, _REBIAS + 0x7F7F
"""Smallest and largest normal bfloat16, as exponent and mantissa bits of a rounded float64."""


def _widened(builder: Any, kind: Any, value: Any, to: Any) -> Any:
    if kind == types.uint16:
        shifted = builder.shl(builder.zext(value, _I32), ir.Constant(_I32, 16))
        value = builder.bitcast(shifted, _FLOAT)
    elif kind == types.int16:
        value = builder.fpext(builder.bitcast(value, _HALF), _FLOAT)
    if to == _DOUBLE and kind != types.float64:
        return builder.fpext(value, _DOUBLE)
    return value


@instruction
def widen(typing_context: Any, value: Any) -> Any:
    """A stored value as float64: exact."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _widened(builder, value, arguments[0], _DOUBLE)

    return types.float64(value), generate


@instruction
def magnitude_bits(typing_context: Any, difference: Any) -> Any:
    """Bit pattern of a float64's magnitude rounded to float32, int32: ordered like magnitudes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(builder.fptrunc(arguments[0], _FLOAT), _I32)
        return builder.and_(bits, ir.Constant(_I32, 0x7FFFFFFF))

    return types.int32(types.float64), generate


@instruction
def narrow(typing_context: Any, value: Any, out: Any) -> Any:
    """A float64 on its way into the array `out`: to be given to `fold` and `pack`."""
    stored = out.dtype
    result = types.int32 if stored in (types.uint16, types.int16) else stored

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        exact = arguments[0]
        if stored == types.uint16:
            return _rounded(builder, exact)
        if stored == types.int16:
            half = builder.fptrunc(_to_odd(builder, exact), _HALF)
            return builder.zext(builder.bitcast(half, _I16), _I32)
        return builder.fptrunc(exact, _FLOAT) if stored == types.float32 else exact

    return result(types.float64, out), generate


@instruction
def fold(typing_context: Any, worst: Any, narrowed: Any, out: Any) -> Any:
    """Remembers, for bfloat16, how far from plain the narrowed values were: see `is_plain`."""
    stored = out.dtype

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if stored != types.uint16:
            return arguments[0]
        pattern = builder.and_(arguments[1], ir.Constant(_I32, 0x7FFFF))
        offset = builder.sub(pattern, ir.Constant(_I32, _FEWEST))
        is_zero = builder.icmp_unsigned("==", pattern, ir.Constant(_I32, 0))
        offset = builder.select(is_zero, ir.Constant(_I32, 0), offset)
        larger = builder.icmp_unsigned(">", offset, arguments[0])
        return builder.select(larger, offset, arguments[0])

    return types.int32(types.int32, narrowed, out), generate


def is_plain(worst: Any) -> bool:
    """Whether all folded values were zero or normal in their format."""
    return bool(0 <= worst <= _MOST - _FEWEST)


@instruction
def pack(typing_context: Any, narrowed: Any, out: Any) -> Any:
    """The stored value of a narrowed one."""
    stored = out.dtype

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = arguments[0]
        if stored == types.int16:
            return builder.trunc(value, _I16)
        if stored != types.uint16:
            return value
        magnitude = builder.sub(
            builder.and_(value, ir.Constant(_I32, 0x7FFFF)), ir.Constant(_I32, _REBIAS)
        )
        negative = builder.icmp_signed("<", magnitude, ir.Constant(_I32, 0))
        magnitude = builder.select(negative, ir.Constant(_I32, 0), magnitude)
        sign = builder.and_(builder.lshr(value, ir.Constant(_I32, 4)), ir.Constant(_I32, 0x8000))
        return builder.trunc(builder.or_(magnitude, sign), _I16)

    return stored(narrowed, out), generate


def _rounded(builder: Any, exact: Any) -> Any:
    """A float64 rounded to nearest even: exponent and 7 mantissa bits, in bit 19 the sign; int32.

    A NaN may carry into the bit above its exponent, but never into the sign.
    """
    bits = builder.bitcast(exact, _I64)
    magnitude = builder.and_(bits, ir.Constant(_I64, (1 << 63) - 1))
    last = builder.and_(builder.lshr(bits, ir.Constant(_I64, _DROPPED)), ir.Constant(_I64, 1))
    half = ir.Constant(_I64, (1 << (_DROPPED - 1)) - 1)
    rounded = builder.add(builder.add(magnitude, last), half)
    rounded = builder.lshr(rounded, ir.Constant(_I64, _DROPPED))
    sign = builder.and_(builder.lshr(bits, ir.Constant(_I64, 44)), ir.Constant(_I64, 1 << 19))
    return builder.trunc(builder.or_(rounded, sign), _I32)


def _to_odd(builder: Any, exact: Any) -> Any:
    """A float64 as float32, rounded so that rounding it again errs nowhere.

    Towards zero, with the last bit set when anything was lost (Boldo and Melquiond 2008, Emulation
    of FMA and correctly rounded sums: proved algorithms using rounding to odd).
    """
    single = builder.fptrunc(exact, _FLOAT)
    loss = builder.sub(
        builder.bitcast(builder.fpext(single, _DOUBLE), _I64), builder.bitcast(exact, _I64)
    )
    zero = ir.Constant(_I64, 0)
    bits = builder.bitcast(single, _I32)
    away = builder.zext(builder.icmp_signed(">", loss, zero), _I32)
    inexact = builder.zext(builder.icmp_signed("!=", loss, zero), _I32)
    return builder.bitcast(builder.or_(builder.sub(bits, away), inexact), _FLOAT)


@instruction
def _narrow_once(typing_context: Any, value: Any) -> Any:
    """A float64 as bfloat16 pattern, subnormals and overflow included."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(_to_odd(builder, arguments[0]), _I32)
        last = builder.and_(builder.lshr(bits, ir.Constant(_I32, 16)), ir.Constant(_I32, 1))
        magnitude = builder.and_(bits, ir.Constant(_I32, 0x7FFFFFFF))
        rounded = builder.add(builder.add(magnitude, last), ir.Constant(_I32, 0x7FFF))
        rounded = builder.lshr(rounded, ir.Constant(_I32, 16))
        # A NaN of all ones must not become a zero with the sign set.
        most = ir.Constant(_I32, 0x7FFF)
        rounded = builder.select(builder.icmp_unsigned("<", rounded, most), rounded, most)
        sign = builder.and_(builder.lshr(bits, ir.Constant(_I32, 16)), ir.Constant(_I32, 0x8000))
        return builder.trunc(builder.or_(rounded, sign), _I16)

    return types.uint16(types.float64), generate


@compiled
def narrow_exactly(exact: Array, out: Array) -> None:
    """Round float64 values into an array of bfloat16 patterns, whatever their size."""
    for i in range(out.size):
        out[i] = _narrow_once(exact[i])


@compiled
def _largest_magnitude(patterns: Array) -> np.uint16:
    largest = np.uint16(0)
    for i in range(patterns.size):
        magnitude = np.uint16(patterns[i] & np.uint16(0x7FFF))
        if magnitude > largest:
            largest = magnitude
    return largest


@compiled
def _all_finite(values: Array) -> bool:
    broken = 0
    for i in range(values.size):
        broken += not np.isfinite(values[i])
    return broken == 0


_INFINITY = {"uint16": 0x7F80, "int16": 0x7C00}


def all_finite(values: Array) -> bool:
    """Whether a run of stored values holds neither NaN nor infinity."""
    infinity = _INFINITY.get(values.dtype.name)
    if infinity is None:
        return bool(_all_finite(values))
    return bool(_largest_magnitude(values.view(np.uint16)) < infinity)
