"""Weighted sums of whole models: linear, passthrough, and what a Gram matrix combines."""

from __future__ import annotations

import numpy as np

from merge_core.fused.compiling import Array, compiled
from merge_core.fused.formats import PLAIN, fold, narrow, pack, widen


@compiled
def weighted_sum(
    models: tuple[Array, ...], weights: tuple[float, ...], divisor: float | None, out: Array
) -> np.int32:
    """out = sum_k weights[k] * models[k], divided by `divisor` unless it is None."""
    worst = PLAIN
    for i in range(out.size):
        total = widen(models[0][i]) * weights[0]
        for k in range(1, len(models)):
            total += widen(models[k][i]) * weights[k]
        if divisor is not None:
            total = total / divisor
        narrowed = narrow(total, out)
        worst = fold(worst, narrowed, out)
        out[i] = pack(narrowed, out)
    return worst
