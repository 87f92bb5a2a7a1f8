"""Weighted sums of whole models: linear, passthrough, and what a Gram matrix combines."""

from __future__ import annotations

from merge_core.fused.compiling import Array, compiled
from merge_core.fused.formats import narrow, widen


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
