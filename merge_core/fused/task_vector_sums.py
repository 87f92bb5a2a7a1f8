"""The compiled loops of the task-arithmetic family; see `methods.task_vector_sum` for the meaning.

`masks` are of one kind for all models (`merge_core.fused.masks`). An argument that may be None
turns its step off when the kernel is compiled.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from merge_core.fused.compiling import Array, compiled
from merge_core.fused.formats import PLAIN, fold, narrow, pack, widen
from merge_core.fused.masks import kept

_TINY_SUM = 1e-8


@compiled
def sum_all(
    base: Array,
    models: tuple[Array, ...],
    masks: tuple[Any, ...],
    factors: tuple[float, ...],
    weights: tuple[float, ...],
    divisor: float | None,
    scale: float,
    start: int,
    out: Array,
) -> np.int32:
    """out = base + scale * sum_k weights[k] * factors[k] * kept(models[k] - base) / divisor."""
    worst = PLAIN
    for i in range(out.size):
        origin = widen(base[i])
        total = kept(masks[0], widen(models[0][i]) - origin, start, i) * factors[0] * weights[0]
        for k in range(1, len(models)):
            delta = widen(models[k][i]) - origin
            total += kept(masks[k], delta, start, i) * factors[k] * weights[k]
        if divisor is not None:
            total = total / divisor
        narrowed = narrow(origin + total * scale, out)
        worst = fold(worst, narrowed, out)
        out[i] = pack(narrowed, out)
    return worst


@compiled
def sum_agreeing(
    base: Array,
    models: tuple[Array, ...],
    masks: tuple[Any, ...],
    factors: tuple[float, ...],
    weights: tuple[float, ...],
    by_count: bool | None,
    shares: tuple[float, ...] | None,
    scale: float,
    start: int,
    out: Array,
) -> np.int32:
    """As `sum_all`, over the entries whose sign is elected, divided by their `shares`."""
    worst = PLAIN
    for i in range(out.size):
        origin = widen(base[i])
        vote = 0.0
        for k in range(len(models)):
            delta = widen(models[k][i]) - origin
            value = kept(masks[k], delta, start, i) * factors[k] * weights[k]
            if by_count is None:
                vote += value
            else:
                vote += np.float64(value > 0.0) - np.float64(value < 0.0)
        total = 0.0
        divisor = 0.0
        for k in range(len(models)):
            delta = widen(models[k][i]) - origin
            value = kept(masks[k], delta, start, i) * factors[k] * weights[k]
            agrees = np.float64(((vote >= 0.0) & (value > 0.0)) | ((vote < 0.0) & (value < 0.0)))
            total += value * agrees
            if shares is not None:
                divisor += agrees * shares[k]
        if shares is not None:
            total = total / (1.0 if abs(divisor) < _TINY_SUM else divisor)
        narrowed = narrow(origin + total * scale, out)
        worst = fold(worst, narrowed, out)
        out[i] = pack(narrowed, out)
    return worst
