"""Oracles of the spectral methods and post-steps: numpy float64, from the papers' formulas.

Nothing is shared with `merge_core`, and where there is another way it is taken: polar factors from
eigenvalues, WUDI by least squares, its descent by torch's own Adam on the written-out objective.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from tests.conformance.oracle import Array, trim

Svd = tuple[Array, Array, Array]


def is_matrix(tensor: Array) -> bool:
    return tensor.ndim == 2 and min(tensor.shape) > 1


def mean(base: Array, models: Sequence[Array], scale: float = 1.0) -> Array:
    """What every spectral method does off matrices."""
    return base + scale * np.mean([model - base for model in models], axis=0)


def svd(matrix: Array, size: float = 0.0) -> Svd:
    """u, s, vt of the singular values above 0 (of rounding: of `size`, or of the largest)."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    rank = int(np.sum(s > max(size, s[0]) * max(matrix.shape) * 2.0**-52))
    return u[:, :rank], s[:rank], vt[:rank]


def polar(matrix: Array) -> Array:
    """(M M^T)^(-1/2) M, by eigenvalues and with a pseudo-inverse; of the thinner side."""
    if matrix.shape[0] > matrix.shape[1]:
        return polar(matrix.T).T
    values, vectors = np.linalg.eigh(matrix @ matrix.T)
    kept = values > 1e-12 * max(1.0, float(values[-1]))
    inverse = (vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T
    return inverse @ matrix


def iso_c(base: Array, models: Sequence[Array], scale: float = 1.0) -> Array:
    if not is_matrix(base):
        return mean(base, models, scale)
    deltas = [model - base for model in models]
    u, s, vt = svd(np.sum(deltas, axis=0), sum(float(np.linalg.norm(d)) for d in deltas))
    return base + scale * (s.mean() if s.size else 0.0) * (u @ vt)


def iso_cts(base: Array, models: Sequence[Array], common: float = 0.8, scale: float = 1.0) -> Array:
    if not is_matrix(base):
        return mean(base, models, scale)
    deltas = [model - base for model in models]
    size = sum(float(np.linalg.norm(delta)) for delta in deltas)
    r, count = min(base.shape), len(models)
    specific = int(np.rint((r - int(r * common)) / count))
    while specific * count > r:
        specific -= 1
    k = r - specific * count
    u, s, vt = svd(np.sum(deltas, axis=0), size)
    u_common, s_common, v_common = u[:, :k], s[:k], vt[:k].T
    columns_u, columns_v, values = [], [], []
    for delta in deltas:
        u, s, vt = svd(delta - u_common @ u_common.T @ delta, size)
        columns_u.append(u[:, :specific])
        columns_v.append(vt[:specific].T)
        values.append(s[:specific])
    u_all = np.hstack([*columns_u, u_common])
    v_all = np.hstack([*columns_v, v_common])
    s_all = np.concatenate([*values, s_common])
    if not s_all.size:
        return base
    return base + scale * s_all.mean() * (polar(u_all) @ polar(v_all).T)


def tsv_m(base: Array, models: Sequence[Array], scale: float = 1.0) -> Array:
    if not is_matrix(base):
        return mean(base, models, scale)
    kept = max(1, int(min(base.shape) / len(models)))
    found = [svd(model - base) for model in models]
    u_all = np.hstack([u[:, :kept] for u, _, _ in found])
    s_all = np.concatenate([s[:kept] for _, s, _ in found])
    v_all = np.hstack([vt[:kept].T for _, _, vt in found])
    if not s_all.size:
        return base
    return base + scale * polar(u_all) @ np.diag(s_all) @ polar(v_all).T


def star(base: Array, models: Sequence[Array], eta: float = 0.4, scale: float = 1.0) -> Array:
    if not is_matrix(base):
        return mean(base, models, scale)
    total = np.zeros_like(base)
    for model in models:
        u, s, vt = np.linalg.svd(model - base, full_matrices=False)
        kept = 1
        while kept < s.size and s[:kept].sum() < eta * s.sum():
            kept += 1
        if s[0] > 0:
            factor = s.sum() / s[:kept].sum()
            total = total + factor * u[:, :kept] @ np.diag(s[:kept]) @ vt[:kept]
    return base + scale * total / len(models)


def knots(
    base: Array,
    models: Sequence[Array],
    combine: str = "ties",
    densities: Sequence[float] | None = None,
    masks: Sequence[Array] | None = None,
    scale: float = 1.0,
) -> Array:
    """masks: for dare, flat 0/1 arrays of at least rank * n entries, one for each model."""
    if not is_matrix(base):
        return mean(base, models, scale)
    deltas = [model - base for model in models]
    densities = densities or [1.0] * len(models)
    u, s, vt = svd(np.hstack(deltas))
    for column in range(s.size):  # the largest entry of each direction is positive
        if u[np.argmax(np.abs(u[:, column])), column] < 0:
            u[:, column], vt[column] = -u[:, column], -vt[column]
    rank, n = int(np.sum(s > 1e-5)), base.shape[1]
    parts = []
    for index, density in enumerate(densities):
        part = s[:rank, None] * vt[:rank, index * n : (index + 1) * n]
        part[np.abs(part) < 1e-13 * s.max(initial=0.0)] = 0.0  # the rounding of a zero
        if combine == "ties":
            part = trim(part, density)
        elif combine.startswith("dare") and masks is not None:
            part = part * masks[index][: part.size].reshape(part.shape) / density
        parts.append(part)
    stack = np.stack(parts)
    if combine in ("linear", "dare"):
        merged = stack.sum(axis=0)
    else:
        cancelled = np.abs(stack.sum(axis=0)) < 1e-12 * np.abs(stack).sum(axis=0)
        elected = np.where(cancelled | (stack.sum(axis=0) >= 0), 1.0, -1.0)
        agree = np.sign(stack) == elected
        merged = (stack * agree).sum(axis=0) / np.maximum(agree.sum(axis=0), 1)
    return base + scale * u[:, :rank] @ merged


def wudi_objective(tau: torch.Tensor, deltas: Sequence[torch.Tensor]) -> torch.Tensor:
    """Interference of tau with the task vectors, as the paper writes it."""
    total = torch.zeros((), dtype=torch.float64)
    for delta in deltas:
        if delta.abs().max() > 0:
            total = total + ((tau - delta) @ delta.T).square().sum() / delta.square().sum()
    return total


def wudi(base: Array, models: Sequence[Array], ridge: float = 1e-6, scale: float = 1.0) -> Array:
    """Least squares: tau*n_i^T = tau_i*n_i^T, n_i = tau_i/|tau_i|, and sqrt(e)*tau = sqrt(e)*t."""
    if not is_matrix(base):
        return mean(base, models, scale)
    deltas = [model - base for model in models]
    units = [delta / np.linalg.norm(delta) for delta in deltas if delta.any()]
    if not units:
        return base
    level = np.sqrt(ridge * len(units) / base.shape[1])
    average = np.mean(deltas, axis=0)
    left = np.vstack([*units, level * np.eye(base.shape[1])])
    right = np.vstack(
        [unit @ delta.T for unit, delta in zip(units, [d for d in deltas if d.any()], strict=True)]
        + [level * average.T]
    )
    return base + scale * np.linalg.lstsq(left, right, rcond=None)[0].T


def wudi_adam(
    base: Array, models: Sequence[Array], rate: float = 1e-5, steps: int = 300, scale: float = 1.0
) -> Array:
    """torch's Adam on the objective's autograd, from the sum of the task vectors."""
    if not is_matrix(base):
        return mean(base, models, scale)
    deltas = [torch.from_numpy(model - base) for model in models]
    tau = torch.stack(deltas).sum(dim=0).requires_grad_()
    optimizer = torch.optim.Adam([tau], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        objective = wudi_objective(tau, deltas)
        if objective.requires_grad:
            objective.backward()
            optimizer.step()
    return base + scale * tau.detach().numpy()


def svc(merged: Array, base: Array, models: Sequence[Array], alpha: float = 1.0) -> Array:
    """Singular values of the merged task vector times K / sum_i max(alpha, s_ri)."""
    if not is_matrix(base):
        return merged
    u, s, vt = np.linalg.svd(merged - base, full_matrices=False)
    calibrated = np.zeros_like(base)
    for r in range(s.size):
        response = u[:, r] @ (merged - base)
        total = 0.0
        for model in models:
            own = u[:, r] @ (model - base)
            takes_part = np.linalg.norm(own) > 1e-8 * np.linalg.norm(model - base)
            total += max(alpha, response @ own / (own @ own)) if takes_part else alpha
        calibrated += len(models) / total * s[r] * np.outer(u[:, r], vt[r])
    return base + calibrated


def lines(
    merged: Array, base: Array, alpha: float, beta: float, layer: int | None, layers: int
) -> Array:
    """alpha + beta * l/(L-1) in layer l of L, alpha outside of the layers."""
    scale = alpha if layer is None else alpha + beta * layer / (layers - 1)
    return base + scale * (merged - base)
