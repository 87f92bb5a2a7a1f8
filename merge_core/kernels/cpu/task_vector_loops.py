"""The compiled loops of the task-arithmetic family; see `methods.parts.task_vector_sum` for the
meaning.

`masks` are of one kind for all models (`merge_core.kernels.cpu.masks`). An argument that may be
None turns its step off when the kernel is compiled.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from merge_core.jit.calling_convention import Array
from merge_core.jit.formats import (
    inverse_of_power,
    kept_if,
    narrow,
    power_below,
    widen,
    with_sign_of,
)
from merge_core.jit.kernel import compiled
from merge_core.kernels.cpu.masks import kept
from merge_core.reductions.constants import TINY_SUM


@compiled
def sum_all(
    base: Array,
    models: tuple[Array, ...],
    masks: tuple[Any, ...],
    factors: tuple[float, ...] | None,
    weights: tuple[float, ...],
    divisor: float | None,
    scale: float,
    out: Array,
) -> None:
    """out = base + scale * sum_k weights[k] * factors[k] * kept(models[k] - base) / divisor."""
    for i in range(out.size):
        origin = widen(base[i])
        total = -0.0
        for k in range(len(models)):
            value = kept(masks[k], widen(models[k][i]) - origin, i)
            if factors is not None:
                value = value * factors[k]
            total += value * weights[k]
        if divisor is not None:
            total = total / divisor
        out[i] = narrow(origin + total * scale, out)


@compiled
def sum_agreeing(
    base: Array,
    models: tuple[Array, ...],
    masks: tuple[Any, ...],
    factors: tuple[float, ...] | None,
    weights: tuple[float, ...],
    by_count: bool | None,
    shares: tuple[float, ...] | None,
    powers: bool | None,
    grids: tuple[float, float, float] | None,
    scale: float,
    out: Array,
) -> None:
    """As `sum_all`, over the entries whose sign is elected, divided by their `shares`.

    powers: not None if every sum of shares is a power of two: then no division is needed.
    grids: `methods.parts.unordered.grid_factors` for more than two models, whose sums then do not
    depend on the order of the models.
    """
    for i in range(out.size):
        origin = widen(base[i])
        coarse = 0.0
        fine = 0.0
        rounding = 0.0
        if grids is not None:
            largest = 0.0
            for k in range(len(models)):
                value = kept(masks[k], widen(models[k][i]) - origin, i)
                if factors is not None:
                    value = value * factors[k]
                size = abs(value * weights[k])
                largest = size if size > largest else largest
            power = power_below(largest)
            coarse = power * grids[0]
            fine = coarse * grids[1]
            if by_count is None:
                rounding = power * grids[2]
        vote = 0.0
        rest = 0.0
        for k in range(len(models)):
            value = kept(masks[k], widen(models[k][i]) - origin, i)
            if factors is not None:
                value = value * factors[k]
            value = value * weights[k]
            if by_count is not None:
                vote += np.float64(value > 0.0) - np.float64(value < 0.0)
            elif grids is not None:
                part = (value + coarse) - coarse
                vote += part
                rest += ((value - part) + fine) - fine
            else:
                vote += value
        if grids is not None:
            vote = (vote + rest) + rounding
        total = 0.0
        rest = 0.0
        divisor = 0.0
        for k in range(len(models)):
            value = kept(masks[k], widen(models[k][i]) - origin, i)
            if factors is not None:
                value = value * factors[k]
            value = value * weights[k]
            agrees = with_sign_of(value, vote) > 0.0  # a vote of 0 has no sign: 0.0 - x + x is +0
            if grids is not None:
                part = (value + coarse) - coarse
                total += kept_if(agrees, part)
                rest += kept_if(agrees, ((value - part) + fine) - fine)
            else:
                total += kept_if(agrees, value)
            if shares is not None:
                divisor += kept_if(agrees, shares[k])
        if grids is not None:
            total += rest
        if powers is not None:
            total = total * inverse_of_power(divisor)
        elif shares is not None:
            total = total / (1.0 if abs(divisor) < TINY_SUM else divisor)
        out[i] = narrow(origin + total * scale, out)
