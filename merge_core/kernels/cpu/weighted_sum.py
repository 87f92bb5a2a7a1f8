"""Weighted sums of whole models: linear, passthrough, and what a Gram matrix combines."""

from __future__ import annotations

import math

import numpy as np

from merge_core.jit.calling_convention import Array
from merge_core.jit.formats import narrow, narrow_to_bfloat16, widen, widen_bfloat16
from merge_core.jit.kernel import compiled


@compiled
def weighted_sum(
    models: tuple[Array, ...], weights: tuple[float, ...], divisor: float | None, out: Array
) -> None:
    """out = sum_k weights[k] * models[k], divided by `divisor` unless it is None."""
    for i in range(out.size):
        total = widen(models[0][i]) * weights[0]
        for k in range(1, len(models)):
            total += widen(models[k][i]) * weights[k]
        if divisor is not None:
            total = total / divisor
        out[i] = narrow(total, out)


_SMALLEST_POWER = 2.0**-16
"""The product of any bfloat16 and this is a float32."""


@compiled
def sum_of_two_powers(models: tuple[Array, ...], weights: tuple[float, ...], out: Array) -> None:
    """As `weighted_sum` without a divisor, in float32; see `can_sum_in_float32`."""
    first, second = np.float32(weights[0]), np.float32(weights[1])
    for i in range(out.size):
        total = widen_bfloat16(models[0][i]) * first + widen_bfloat16(models[1][i]) * second
        out[i] = narrow_to_bfloat16(total)


def can_sum_in_float32(models: tuple[Array, ...], weights: tuple[float, ...], out: Array) -> bool:
    """Whether float32 gives the bytes of float64: for two bfloat16 models whose weights are powers
    of two, of at most 1.

    Both products are exact, and have 8 bits. So is their float32 sum, or the smaller one is less
    than 2**-15 of the larger. No middle of two bfloat16 values is so near to a number of 8 bits:
    rounding to float32 first does not move the sum onto one, nor past one, and rounding to bfloat16
    then gives what rounding once gives. (A product that is smaller than any bfloat16 may be a
    middle; but sums of such numbers are exact.) The same holds for float64.
    """
    return (
        len(models) == 2
        and models[0].dtype == out.dtype == np.uint16
        and all(
            abs(math.frexp(weight)[0]) == 0.5 and _SMALLEST_POWER <= abs(weight) <= 1.0
            for weight in weights
        )
    )
