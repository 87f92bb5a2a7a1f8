"""Merge methods in plain numpy float64, written from the papers' formulas and nothing else.

Whole tensors, sorting where the engine selects, no shared code with `merge_core`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def linear(models: Sequence[Array], weights: Sequence[float], normalize: bool = True) -> Array:
    total = np.zeros_like(models[0])
    for model, weight in zip(models, weights, strict=True):
        total = total + weight * model
    return total / np.sum(weights) if normalize else total


def slerp(base: Array, model: Array, t: float) -> Array:
    v0, v1 = base.ravel(), model.ravel()
    n0, n1 = np.linalg.norm(v0), np.linalg.norm(v1)
    u0 = v0 / n0 if n0 > 1e-8 else v0
    u1 = v1 / n1 if n1 > 1e-8 else v1
    cosine = float(u0 @ u1)
    if abs(cosine) > 0.9995:
        return (1 - t) * base + t * model
    angle = np.arccos(cosine)
    return (np.sin((1 - t) * angle) * base + np.sin(t * angle) * model) / np.sin(angle)


def trim(delta: Array, density: float) -> Array:
    """Keep the max(1, int(density * n)) largest magnitudes (as float32), the lowest index first."""
    if density >= 1 or delta.size == 0:
        return delta
    count = max(1, int(density * delta.size))
    magnitude = np.abs(delta.ravel()).astype(np.float32)
    order = np.argsort(-magnitude, kind="stable")
    kept = np.zeros(delta.size)
    kept[order[:count]] = delta.ravel()[order[:count]]
    return kept.reshape(delta.shape)


def match_l1(before: Array, after: Array) -> Array:
    b, a = np.abs(before).sum(), np.abs(after).sum()
    return after * (b / a) if b >= 1e-7 and a >= 1e-7 else after


def elected_signs(votes: Array) -> Array:
    """The sign of the sum over the first axis, + where it is 0; for more than two votes, whose sum
    their order may not change, also where it is rounding."""
    total = votes.sum(axis=0)
    if len(votes) > 2:
        total = np.where(np.abs(total) <= 2.0**-46 * np.abs(votes).max(axis=0), 0.0, total)
    return np.where(total >= 0, 1.0, -1.0)


def add_task_vectors(
    base: Array,
    deltas: Sequence[Array],
    weights: Sequence[float],
    *,
    consensus: bool,
    normalize: bool,
    scale: float = 1.0,
) -> Array:
    weighted = np.stack([w * d for w, d in zip(weights, deltas, strict=True)])
    columns = np.asarray(weights, dtype=np.float64).reshape(-1, *([1] * base.ndim))
    if consensus:
        elected = elected_signs(weighted)
        agree = (np.sign(weighted) == elected).astype(np.float64)
        mixed = (weighted * agree).sum(axis=0)
        divisor = (columns * agree).sum(axis=0)
        divisor = np.where(divisor == 0, 1.0, divisor)
    else:
        mixed = weighted.sum(axis=0)
        divisor = np.sum(weights)
        if abs(divisor) < 1e-8:
            divisor = 1.0
    if normalize:
        mixed = mixed / divisor
    return base + scale * mixed
