"""Oracles of the methods on the sphere, on whole vectors in numpy's longdouble.

On vectors, not on dot products, and with more digits than float64 where the platform has them: an
angle computed from a float64 cosine near 1 or -1 is known to 1e-8 only, and the oracle must be the
one that knows better. Written from the formulas; nothing is shared with `merge_core`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tests.conformance.oracle import Array

Long = NDArray[np.longdouble]


def _length(vector: Long) -> np.longdouble:
    return np.sqrt(np.sum(vector * vector))


def nuslerp(
    models: Sequence[Array],
    weights: tuple[float, float],
    base: Array | None = None,
    axis: int | None = None,
) -> Array:
    """axis: None for one angle, -1 for one for each row, 0 for one for each column."""
    total = sum(weights)
    t = weights[1] / total if abs(total) >= 1e-6 else 0.5
    origin = np.zeros_like(models[0]) if base is None else base
    v0, v1 = (np.asarray(model - origin, dtype=np.longdouble) for model in models)
    shape = v0.shape
    if axis is None or len(shape) < 2:
        v0, v1, axis = v0.ravel(), v1.ravel(), 0
    n0, n1 = (np.sqrt((v * v).sum(axis=axis, keepdims=True)) for v in (v0, v1))
    u0, u1 = v0 / np.maximum(n0, 1e-7), v1 / np.maximum(n1, 1e-7)
    cosine = np.clip((u0 * u1).sum(axis=axis, keepdims=True), -1, 1)
    line = 1 - cosine**2 <= 1e-16
    angle = np.arccos(np.where(line, 0, cosine))
    arc = (np.sin((1 - t) * angle) * v0 + np.sin(t * angle) * v1) / np.sin(angle)
    mixed = np.where(line, (1 - t) * v0 + t * v1, arc)
    return origin + mixed.reshape(shape).astype(np.float64)


def multislerp(
    models: Sequence[Array],
    weights: Sequence[float],
    base: Array | None = None,
    *,
    normalize: bool = True,
    eps: float = 1e-8,
) -> Array | None:
    """None where the directions cancel and more than two models leave no line to fall back to."""
    if len(models) == 1:
        return models[0]
    origin = np.zeros_like(models[0]) if base is None else base
    vectors = [np.asarray(model - origin, dtype=np.longdouble).ravel() for model in models]
    w = np.asarray(weights, dtype=np.longdouble)
    w = w / w.sum() if normalize else w
    lengths = np.array([_length(vector) for vector in vectors])
    units = [v / (length + eps) for v, length in zip(vectors, lengths, strict=True)]
    mean = sum(wi * u for wi, u in zip(w, units, strict=True))
    if _length(mean) < eps:
        if len(models) > 2 and lengths.any():
            return None
        line = sum(wi * v for wi, v in zip(w, vectors, strict=True))
        return origin + line.reshape(origin.shape).astype(np.float64)
    mean = mean / _length(mean)
    tangent = sum(wi * (u - (u @ mean) * mean) for wi, u in zip(w, units, strict=True))
    angle = _length(tangent) + eps
    mixed = (mean * np.cos(angle) + tangent * np.sin(angle) / angle) * (w @ lengths)
    return origin + mixed.reshape(origin.shape).astype(np.float64)


def karcher(models: Sequence[Array], iterations: int = 10, tolerance: float = 1e-5) -> Array:
    """A unit opposite to the mean has no logarithm there and does not count in that step."""
    vectors = [np.asarray(model, dtype=np.longdouble).ravel() for model in models]
    lengths = np.array([_length(vector) for vector in vectors])
    units = [v / length for v, length in zip(vectors, lengths, strict=True) if length > tolerance]
    if not units:
        return np.zeros_like(models[0])
    mean = sum(units) / len(units)
    mean = units[0] if _length(mean) < tolerance else mean / _length(mean)
    for _ in range(iterations):
        tangent = np.zeros_like(mean)
        for unit in units:
            cosine = np.clip(unit @ mean, -1, 1)
            angle = np.arccos(cosine)
            if tolerance <= angle < np.pi - 1e-8:
                tangent = tangent + angle / np.sin(angle) * (unit - cosine * mean) / len(units)
        step = _length(tangent)
        if step < tolerance:
            break
        mean = np.cos(step) * mean + np.sin(step) * tangent / step
        mean = mean / _length(mean)
    return (mean * lengths.mean()).reshape(models[0].shape).astype(np.float64)
