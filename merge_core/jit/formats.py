"""Stored values as kernels see them: numpy arrays whose dtype stands for the stored format.

uint16 holds bfloat16 patterns, int16 float16 patterns (numpy knows no bfloat16, and numba computes
with neither); float32 and float64 are themselves. `widen` and `narrow` convert single values inside
compiled loops; both become a few vector instructions.

Rounding float64 to bfloat16 happens once, to nearest, ties to even: adding a number 2**45 times as
large, and subtracting it again, leaves 8 of the 53 significant bits, or what of them a subnormal
has. A result that is too large becomes infinity, or no number; `all_finite` finds either.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from merge_core.jit.calling_convention import Array
from merge_core.jit.kernel import compiled, instruction
from merge_core.jit.lazy_numba import types

STORED = {"BF16": np.uint16, "F16": np.int16, "F32": np.float32, "F64": np.float64}
"""For each safetensors code the numpy dtype that stands for it here."""

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_HALF, _FLOAT, _DOUBLE = ir.HalfType(), ir.FloatType(), ir.DoubleType()

_ROUNDER = 1.5 * 2**45
"""Times a power of two: 53 - 8 = 45 bits that a bfloat16 has no room for, and even in the last that
it has, so that ties go to even."""
_EXPONENT, _SIGN = 0x7FF << 52, 1 << 63
_SMALLEST = 2.0**-126
"""The power of two at which bfloat16 becomes subnormal: below it the last bit stays the same."""


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
def widen_bfloat16(typing_context: Any, pattern: Any) -> Any:
    """A bfloat16 as float32: exact."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _widened(builder, types.uint16, arguments[0], _FLOAT)

    return types.float32(types.uint16), generate


@instruction
def narrow_to_bfloat16(typing_context: Any, value: Any) -> Any:
    """A float32 rounded once to bfloat16. A NaN must have zeros where bfloat16 has no bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits, sixteen = builder.bitcast(arguments[0], _I32), ir.Constant(_I32, 16)
        last = builder.and_(builder.lshr(bits, sixteen), ir.Constant(_I32, 1))
        up = builder.add(last, ir.Constant(_I32, 0x7FFF))
        return builder.trunc(builder.lshr(builder.add(bits, up), sixteen), _I16)

    return types.uint16(types.float32), generate


@instruction
def magnitude_bits(typing_context: Any, difference: Any) -> Any:
    """Bit pattern of a float64's magnitude rounded to float32, int32: ordered like magnitudes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(builder.fptrunc(arguments[0], _FLOAT), _I32)
        return builder.and_(bits, ir.Constant(_I32, 0x7FFFFFFF))

    return types.int32(types.float64), generate


@instruction
def narrow(typing_context: Any, value: Any, out: Any) -> Any:
    """A float64 rounded once to what the array `out` stores."""
    stored = out.dtype

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        exact = arguments[0]
        if stored == types.uint16:
            return _rounded(builder, exact)
        if stored == types.int16:
            return builder.bitcast(builder.fptrunc(_to_odd(builder, exact), _HALF), _I16)
        return builder.fptrunc(exact, _FLOAT) if stored == types.float32 else exact

    return stored(types.float64, out), generate


@instruction
def kept_if(typing_context: Any, condition: Any, value: Any) -> Any:
    """A float64, or a zero of its sign where the condition does not hold."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[1], _I64)
        zero = builder.and_(bits, ir.Constant(_I64, _SIGN))
        return builder.bitcast(builder.select(arguments[0], bits, zero), _DOUBLE)

    return types.float64(types.boolean, types.float64), generate


@instruction
def with_sign_of(typing_context: Any, value: Any, other: Any) -> Any:
    """A float64, negated where the other is negative."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits, others = (builder.bitcast(argument, _I64) for argument in arguments)
        flipped = builder.xor(bits, builder.and_(others, ir.Constant(_I64, _SIGN)))
        return builder.bitcast(flipped, _DOUBLE)

    return types.float64(types.float64, types.float64), generate


@instruction
def power_below(typing_context: Any, value: Any) -> Any:
    """The largest power of two that is not above a positive float64; 0 for 0 and subnormals."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], _I64)
        return builder.bitcast(builder.and_(bits, ir.Constant(_I64, _EXPONENT)), _DOUBLE)

    return types.float64(types.float64), generate


@instruction
def inverse_of_power(typing_context: Any, value: Any) -> Any:
    """1 / value for a power of two; a large number for 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.sub(ir.Constant(_I64, 2 * 1023 << 52), builder.bitcast(arguments[0], _I64))
        return builder.bitcast(bits, _DOUBLE)

    return types.float64(types.float64), generate


def _rounded(builder: Any, exact: Any) -> Any:
    """A float64 as a bfloat16 pattern, rounded once to the nearest, ties to even."""
    bits = builder.bitcast(exact, _I64)
    power = builder.bitcast(builder.and_(bits, ir.Constant(_I64, _EXPONENT)), _DOUBLE)
    smallest = ir.Constant(_DOUBLE, _SMALLEST)
    power = builder.select(builder.fcmp_ordered(">", power, smallest), power, smallest)
    rounder = builder.fmul(power, ir.Constant(_DOUBLE, _ROUNDER))
    rounded = builder.fsub(builder.fadd(exact, rounder), rounder)
    # The sum has lost the sign of a zero.
    magnitude = builder.and_(builder.bitcast(rounded, _I64), ir.Constant(_I64, _SIGN - 1))
    signed = builder.or_(magnitude, builder.and_(bits, ir.Constant(_I64, _SIGN)))
    single = builder.fptrunc(builder.bitcast(signed, _DOUBLE), _FLOAT)
    return builder.trunc(builder.lshr(builder.bitcast(single, _I32), ir.Constant(_I32, 16)), _I16)


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


@compiled
def _are_below(arrays: tuple[Array, ...], limit: Any) -> Any:
    largest = np.uint16(0)
    for k in range(len(arrays)):
        patterns = arrays[k]
        for i in range(patterns.size):
            magnitude = np.uint16(patterns[i] & np.uint16(0x7FFF))
            if magnitude > largest:
                largest = magnitude
    return largest < limit


@compiled
def _are_finite(arrays: tuple[Array, ...]) -> bool:
    broken = 0
    for k in range(len(arrays)):
        values = arrays[k]
        for i in range(values.size):
            broken += not np.isfinite(values[i])
    return broken == 0


_INFINITY = {np.dtype(np.uint16): np.uint16(0x7F80), np.dtype(np.int16): np.uint16(0x7C00)}


def all_finite(*arrays: Array) -> tuple[Any, ...]:
    """A kernel that says whether runs of stored values, all of one dtype, hold neither NaN nor
    infinity, and what it is called with."""
    infinity = _INFINITY.get(arrays[0].dtype)
    if infinity is None:
        return _are_finite, arrays
    return _are_below, tuple([values.view(np.uint16) for values in arrays]), infinity
