"""Oracles of Arcee fusion and PCB in numpy float64: whole tensors, sorted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.conformance.oracle import Array


def softmax(values: Array) -> Array:
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def arcee_fusion(base: Array, model: Array) -> Array:
    """theta_1 where |change| * KL(row) reaches median + 1.5 * interquartile range."""
    if not base.size:
        return base
    rows = [values if values.ndim else values[None] for values in (base, model)]
    q, p = (softmax(values) + 1e-8 for values in rows)
    divergence = np.sum(p * np.log(p / q), axis=-1, keepdims=True)
    importance = np.abs(rows[1] - rows[0]) * divergence
    ordered = np.sort(importance.ravel())
    q1, q2, q3 = (ordered[int(np.floor(k * (ordered.size - 1) / 4))] for k in (1, 2, 3))
    threshold = (q2 + 1.5 * (q3 - q1)) * (1 - 1e-12)  # at the threshold is above, rounded or not
    return np.where(importance >= threshold, rows[1], rows[0]).reshape(base.shape)


def minmax(values: Array, low: float, high: float) -> Array:
    clamped = np.clip(values, low, high)
    return (clamped - low) / (high - low) if high > low else np.zeros_like(values)


def pcb(
    base: Array, models: Sequence[Array], ratio: float = 0.1, clip: float = 0.01, scale: float = 1.0
) -> Array:
    if not base.size:
        return base
    deltas = [model - base for model in models]
    n, total = base.size, np.sum(deltas, axis=0)
    upper, lower = np.zeros_like(base), np.zeros_like(base)
    for delta in deltas:
        sizes = np.sort(np.abs(delta).ravel())
        cut = min(int(clip * n), (n - 1) // 2)
        low, high = sizes[cut], sizes[n - 1 - cut]
        clamped = np.sign(delta) * np.clip(np.abs(delta), low, high)
        intra = np.exp(len(models) * minmax(np.abs(delta), low, high) ** 2)
        score = intra * np.tanh(delta * total)
        ranked = np.sort(score.ravel())
        floor, top = ranked[min(int((1 - ratio) * n), n - 1)], ranked[-1]
        share = minmax(score, floor, top)
        if floor == top:
            share = ((score == top) & (score > 0)).astype(np.float64)
        upper, lower = upper + clamped * share, lower + share
    return base + scale * upper / np.maximum(lower, 1e-12)
