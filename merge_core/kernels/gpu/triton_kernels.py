"""Triton kernels: from stored patterns to stored patterns, each value computed as on the CPU.

float64 arithmetic in the order of `merge_core.kernels.cpu`, rounded once. They must be launched
without contraction into fused multiply-adds (`launched`). Numbers come as an array of float64,
since Triton takes a number of Python's as float32. Patterns of bfloat16 come and go as int16.

This module imports triton, which comes with the builds of torch for GPUs.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

TILE = 1024
"""Elements that one program instance computes."""
FORMATS = {"BF16": 0, "F16": 1, "F32": 2, "F64": 3}
"""What `stored` and `out` hold, by safetensors code."""


_BFLOAT16 = tl.constexpr(0)
_FLOAT16 = tl.constexpr(1)
_FLOAT32 = tl.constexpr(2)
_EXPONENT = tl.constexpr(0x7FF << 52)
_MAGNITUDE = tl.constexpr((1 << 63) - 1)
_ROUNDER = tl.constexpr(1.5 * 2**45)
_SMALLEST = tl.constexpr(2.0**-126)


@triton.jit
def weighted_sum(
    stored,
    numbers,
    out,
    broken,
    count,
    models: tl.constexpr,
    divided: tl.constexpr,
    stored_format: tl.constexpr,
    out_format: tl.constexpr,
    tile: tl.constexpr,
):
    """out = sum_k numbers[k] * stored[k], if `divided` by numbers[models].

    stored: (models, count).
    broken: int32, set to 1 where a result is NaN or infinite.
    """
    place = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    inside = place < count
    total = _widened(stored, place, inside, stored_format) * tl.load(numbers)
    for k in tl.static_range(1, models):
        total += _widened(stored + k * count, place, inside, stored_format) * tl.load(numbers + k)
    if divided:
        total = total / tl.load(numbers + models)
    _store(out, broken, total, place, inside, out_format)


@triton.jit
def task_vector_sum(
    stored,
    numbers,
    out,
    broken,
    count,
    models: tl.constexpr,
    divided: tl.constexpr,
    stored_format: tl.constexpr,
    out_format: tl.constexpr,
    tile: tl.constexpr,
):
    """out = base + scale * sum_k numbers[k] * (stored[k + 1] - base), the sum divided if `divided`.

    stored: (models + 1, count), the base first.
    numbers: the weights, the divisor, the scale.
    """
    place = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    inside = place < count
    base = _widened(stored, place, inside, stored_format)
    total = (_widened(stored + count, place, inside, stored_format) - base) * tl.load(numbers)
    for k in tl.static_range(1, models):
        model = _widened(stored + (k + 1) * count, place, inside, stored_format)
        total += (model - base) * tl.load(numbers + k)
    if divided:
        total = total / tl.load(numbers + models)
    _store(out, broken, base + total * tl.load(numbers + models + 1), place, inside, out_format)


@triton.jit
def _widened(stored, place, inside, stored_format: tl.constexpr):
    """Stored values as float64: exact."""
    value = tl.load(stored + place, mask=inside, other=0)
    if stored_format == _BFLOAT16:
        return (value.to(tl.int32) << 16).to(tl.float32, bitcast=True).to(tl.float64)
    return value.to(tl.float32).to(tl.float64)


@triton.jit
def _store(out, broken, exact, place, inside, out_format: tl.constexpr):
    """Round once, store, and mark what is not finite."""
    if out_format == _BFLOAT16:
        rounded = _bfloat16(exact)
        finite = (rounded & 0x7FFF) < 0x7F80
    elif out_format == _FLOAT16:
        rounded = _to_odd(exact).to(tl.float16)
        finite = (rounded.to(tl.int16, bitcast=True) & 0x7FFF) < 0x7C00
    elif out_format == _FLOAT32:
        rounded = exact.to(tl.float32)
        finite = (rounded.to(tl.int32, bitcast=True) & 0x7FFFFFFF) < 0x7F800000
    else:
        rounded = exact
        finite = (exact.to(tl.int64, bitcast=True) & _MAGNITUDE) < _EXPONENT
    tl.store(out + place, rounded, mask=inside)
    if tl.sum((inside & (finite == 0)).to(tl.int32), 0) > 0:
        tl.store(broken, 1)


@triton.jit
def _bfloat16(exact):
    """Patterns as int16: see `merge_core.jit.formats`, whose operations these are."""
    bits = exact.to(tl.int64, bitcast=True)
    power = (bits & _EXPONENT).to(tl.float64, bitcast=True)
    power = tl.where(power > _SMALLEST, power, _SMALLEST)
    rounder = power * _ROUNDER
    rounded = (exact + rounder) - rounder
    magnitude = rounded.to(tl.int64, bitcast=True) & _MAGNITUDE
    signed = (magnitude | (bits & ~_MAGNITUDE)).to(tl.float64, bitcast=True)
    return (signed.to(tl.float32).to(tl.int32, bitcast=True) >> 16).to(tl.int16)


@triton.jit
def _to_odd(exact):
    """float32, rounded so that rounding it again errs nowhere: see `merge_core.jit.formats`."""
    single = exact.to(tl.float32)
    loss = single.to(tl.float64).to(tl.int64, bitcast=True) - exact.to(tl.int64, bitcast=True)
    bits = single.to(tl.int32, bitcast=True)
    odd = (bits - (loss > 0).to(tl.int32)) | (loss != 0).to(tl.int32)
    return odd.to(tl.float32, bitcast=True)


def programs(count: int) -> tuple[Any, ...]:
    """The grid for so many elements."""
    return (triton.cdiv(count, TILE),)
