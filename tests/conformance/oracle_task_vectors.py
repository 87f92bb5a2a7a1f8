"""Oracles of the methods that select, weigh or compare task vectors: numpy float64, whole tensors.

Written from the papers' formulas. Sorting is allowed; nothing is shared with `merge_core`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.conformance.oracle import Array, elected_signs


def _largest_first(values: Array) -> np.ndarray:
    """Flat indices by falling magnitude (as float32), equal ones by rising index."""
    return np.argsort(-np.abs(values.ravel()).astype(np.float32), kind="stable")


def band(delta: Array, density: float, gamma: float) -> Array:
    """Breadcrumbs: without the int(gamma*n) largest, keep the next max(1, int(density*n))."""
    if density >= 1 or delta.size == 0:
        return delta
    if density <= 0:
        return np.zeros_like(delta)
    keep = max(1, int(density * delta.size))
    drop = min(int(gamma * delta.size), delta.size - keep)
    chosen = _largest_first(delta)[drop : drop + keep]
    kept = np.zeros(delta.size)
    kept[chosen] = delta.ravel()[chosen]
    return kept.reshape(delta.shape)


def keep_probabilities(delta: Array, density: float, epsilon: float) -> Array:
    """DELLA: from density-epsilon for the smallest of a row to density+epsilon for its largest."""
    if delta.size == 0:
        return delta
    rows = np.abs(delta.reshape(-1, delta.shape[-1] if delta.ndim > 1 else max(1, delta.size)))
    if rows.shape[1] == 1:
        return np.full(delta.shape, density)
    chances = np.empty(rows.shape)
    for index, row in enumerate(rows):
        ranks = np.empty(row.size)
        ranks[np.argsort(row, kind="stable")] = np.arange(row.size)
        chances[index] = density - epsilon + 2 * epsilon * ranks / (row.size - 1)
    return chances.reshape(delta.shape)


def model_stock(base: Array, models: Sequence[Array], *, filter_wise: bool = False) -> Array:
    """t = N cos / (1 + (N-1) cos) between base and mean; the base where that has no value."""
    if base.size == 0:
        return base
    if filter_wise and base.ndim > 1:
        rows = [(model - base).reshape(-1, base.shape[-1]) for model in models]
    else:
        rows = [(model - base).reshape(1, -1) for model in models]
    count = len(models)
    cosines = []
    for i in range(count):
        for j in range(i + 1, count):
            lengths = np.linalg.norm(rows[i], axis=1) * np.linalg.norm(rows[j], axis=1)
            dots = (rows[i] * rows[j]).sum(axis=1)
            cosines.append(np.clip(dots / np.maximum(lengths, 1e-6), -1, 1))
    cosine = np.mean(cosines, axis=0)
    denominator = 1 + (count - 1) * cosine
    undefined = np.abs(denominator) < 1e-6
    t = np.where(undefined, 0.0, count * cosine / np.where(undefined, 1.0, denominator))
    mean = np.mean([row + base.reshape(row.shape) for row in rows], axis=0)
    origin = base.reshape(mean.shape)
    return (t[:, None] * mean + (1 - t[:, None]) * origin).reshape(base.shape)


def sce(base: Array, models: Sequence[Array], topk: float = 1.0) -> Array:
    """Select by variance, calculate weights by energy, erase minority signs."""
    deltas = np.stack([model - base for model in models])
    if topk < 1:
        alike = (deltas == deltas[0]).all(axis=0)
        variance = np.where(alike, 0.0, np.var(deltas, axis=0))
        keep = int(topk * np.count_nonzero(variance))
        mask = np.zeros(base.size)
        mask[_largest_first(variance)[:keep]] = 1
        deltas = deltas * mask.reshape(base.shape)
    energy = np.array([np.square(delta).mean() if delta.size else 0.0 for delta in deltas])
    uniform = np.full(len(models), 1 / len(models))
    share = energy / energy.sum() if energy.sum() >= 1e-6 else uniform
    share = share.reshape(-1, *([1] * base.ndim))
    elected = elected_signs(deltas)
    agree = np.sign(deltas) == elected
    divisor = np.maximum((share * agree).sum(axis=0), 1e-6)
    return base + (deltas * share * agree).sum(axis=0) / divisor


def ram(
    base: Array, models: Sequence[Array], epsilon: float = 1e-5, r: float = 0.0, alpha: float = 0.2
) -> Array:
    """Unique changes in full (RAM+: times 1 + r*clip(shared/unique, 0, alpha)), shared averaged."""
    deltas = [model - base for model in models]
    changed = [np.abs(delta) > epsilon for delta in deltas]
    count = np.sum(changed, axis=0)
    merged = np.zeros_like(base)
    for delta, own in zip(deltas, changed, strict=True):
        shared, unique = np.sum(own & (count > 1)), np.sum(own & (count == 1))
        factor = 1 + r * np.clip(shared / max(float(unique), epsilon), 0, alpha)
        merged = merged + np.where(own & (count == 1), factor * delta, 0)
        merged = merged + np.where(own & (count > 1), delta / np.maximum(count, 1), 0)
    return base + merged


def nearswap(base: Array, model: Array, t: float) -> Array:
    share = np.clip(t / np.maximum(np.abs(base - model), 1e-6), 0, 1)
    return share * model + (1 - share) * base


def magmax(base: Array, models: Sequence[Array], scale: float = 0.5) -> Array:
    deltas = np.stack([model - base for model in models])
    largest = np.abs(deltas).argmax(axis=0)
    return base + scale * np.take_along_axis(deltas, largest[None], axis=0)[0]


def emr(base: Array, models: Sequence[Array], scale: float = 1.0) -> Array:
    deltas = np.stack([model - base for model in models])
    sign = elected_signs(deltas)
    sizes = np.where(np.sign(deltas) == sign, np.abs(deltas), 0.0)
    return base + scale * sign * sizes.max(axis=0)


def consensus(
    base: Array,
    models: Sequence[Array],
    k: float = 2,
    strictness: float = 0.4,
    scale: float = 0.3,
) -> Array:
    deltas = [model - base for model in models]
    total = np.sum(deltas, axis=0)
    votes = np.sum([np.abs(d) > strictness * np.abs(total - d) for d in deltas], axis=0)
    return base + scale * np.where(votes >= k, total, 0.0)


def metagpt(base: Array, models: Sequence[Array], scale: float = 1.0) -> Array:
    deltas = [model - base for model in models]
    squares = np.array([np.square(delta).sum() for delta in deltas])
    weights = squares / squares.sum() if squares.sum() > 0 else squares
    return base + scale * np.sum([w * d for w, d in zip(weights, deltas, strict=True)], axis=0)


def normalized_task_arithmetic(
    base: Array, models: Sequence[Array], weights: Sequence[float], scale: float = 1.0
) -> Array:
    deltas = [model - base for model in models]
    lengths = [np.linalg.norm(delta.ravel()) for delta in deltas]
    mean = np.mean(lengths)
    merged = np.zeros_like(base)
    for delta, length, weight in zip(deltas, lengths, weights, strict=True):
        if length > 0:
            merged = merged + weight * mean * (delta / length)
    return base + scale * merged
