"""Interpolation and averaging on the sphere: directions and lengths are merged apart.

Weights are `weight` of each model; everything follows from the tensors' Gram matrix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from merge_core.errors import MergeflowError, RecipeError
from merge_core.methods.base import Block, Kernel, Method, TensorJob
from merge_core.methods.parameter import Parameter, Scalar
from merge_core.methods.parts.gram import GramKernel, Matrix, norms
from merge_core.reductions.constants import TINY_SUM
from merge_core.runtime.lazy_torch import torch

_TINY_NORM = 1e-8
_NEARLY_PARALLEL = 0.9995
_NUSLERP_TINY_NORM = 1e-7
_LINE = 1e-14
"""1 - cos^2 below which NuSlerp's arc is a line: what is left of it is rounding of the cosine."""
_LEAST_MEAN = 1e-7
"""Length of a mean of unit vectors below which dot products cannot tell it from 0."""
_OPPOSITE = 1e-6
"""Distance of an angle from pi below which its direction is rounding."""
_TINY_WEIGHT_SUM = 1e-6


class Slerp(Method):
    """out = sin((1-t)*O)/sin(O) * theta_0 + sin(t*O)/sin(O) * theta_1.

    cos(O) is the cosine between the base's and the model's whole tensors. Where |cos(O)| is above
    0.9995 the arc is a line and out = (1-t)*theta_0 + t*theta_1.
    """

    name = "slerp"
    summary = "spherical interpolation from the base (t = 0) to one model (t = 1)"
    paper = "Shoemake 1985, Animating rotation with quaternion curves"
    parameters = (Parameter("t", "position between base (0) and model (1)", None, low=0, high=1),)
    base = "required"
    base_role = "one of the two ends, which the result is at t = 0"
    most_models = 1
    granularity = "multipass"

    def kernel(self, job: TensorJob) -> Kernel:
        return _Slerp(float(job.parameters["t"]))


class NuSlerp(Method):
    """Slerp between two models by weights: t = w_1 / (w_0 + w_1), along tensors, rows or columns.

    out = (sin((1-t)*O) * v_0 + sin(t*O) * v_1) / sin(O). With a base, v are task vectors and the
    result is added to the base. `nuslerp_flatten: false` takes an angle O for each vector along
    the last dimension, or with `nuslerp_row_wise: true` along the first.
    """

    name = "nuslerp"
    summary = "spherical interpolation of two models, or of their task vectors, by weights"
    paper = "Shoemake 1985; mergekit's weighted variant"
    parameters = (
        Parameter("weight", "share of this model", None, per_model=True),
        Parameter("nuslerp_flatten", "one angle for the whole tensor", True, kind="flag"),
        Parameter("nuslerp_row_wise", "angles of columns, not rows", False, kind="flag"),
    )
    fewest_models = 2
    most_models = 2
    granularity = "rowwise"

    def kernel(self, job: TensorJob) -> Kernel:
        w0, w1 = job.numbers("weight")
        t = w1 / (w0 + w1) if abs(w0 + w1) >= _TINY_WEIGHT_SUM else 0.5
        if job.parameters["nuslerp_flatten"] or len(job.shape) < 2:
            return _NuSlerpWhole(t, job)
        if job.parameters["nuslerp_row_wise"]:
            return _NuSlerpColumns(t, job)
        return _NuSlerpRows(t, job.row)


class MultiSlerp(Method):
    """Weighted mean on the sphere, in the tangent plane at the normalised weighted mean.

    u_i = theta_i/|theta_i|; m = sum_i w_i*u_i / |sum_i w_i*u_i|; T = sum_i w_i*(u_i - (u_i.m)*m);
    out = (m*cos|T| + T*sin|T|/|T|) * sum_i w_i*|theta_i|. With a base, of task vectors.
    """

    name = "multislerp"
    summary = "spherical weighted mean of any number of models"
    paper = "Goddard 2025, mergekit multislerp; barycentric interpolation on the hypersphere"
    parameters = (
        Parameter("weight", "share of this model", None, per_model=True),
        Parameter("normalize_weights", "make the weights add up to 1", True, kind="flag"),
        Parameter("eps", "guard against division by zero", 1e-8, low=0),
    )
    granularity = "multipass"

    def check(
        self,
        model_parameters: Sequence[Mapping[str, Scalar]],
        parameters: Mapping[str, Scalar],
    ) -> None:
        total = sum(float(each["weight"]) for each in model_parameters)
        if parameters["normalize_weights"] and abs(total) < TINY_SUM:
            raise RecipeError(
                "the weights add up to 0 and cannot be normalised",
                mend="set normalize_weights: false, or weights with another sum",
            )

    def kernel(self, job: TensorJob) -> Kernel:
        weights = np.asarray(job.numbers("weight"))
        if job.parameters["normalize_weights"]:
            weights = weights / weights.sum()
        return _MultiSlerp(weights, float(job.parameters["eps"]), job)


class Karcher(Method):
    """Riemannian (Karcher) mean of the models' directions, all counting the same.

    Iterate u <- exp_u(mean_i log_u(u_i)) from the normalised mean until the step is below `tol`;
    out = u * mean_i |theta_i|.
    """

    name = "karcher"
    summary = "Riemannian mean of the models on the sphere"
    paper = "Karcher 1977, Riemannian center of mass"
    parameters = (
        Parameter("max_iter", "at most this many iterations", 10.0, low=1, high=10_000),
        Parameter("tol", "smallest step that counts", 1e-5, low=0),
    )
    fewest_models = 2
    base_is_input = True
    granularity = "multipass"

    def kernel(self, job: TensorJob) -> Kernel:
        iterations, tolerance = int(job.parameters["max_iter"]), float(job.parameters["tol"])
        return _Karcher(len(job.model_parameters), iterations, tolerance)


class _Slerp(GramKernel):
    def __init__(self, t: float) -> None:
        super().__init__(1, "base and models")
        self._t = t

    def coefficients(self, gram: Matrix) -> list[float]:
        cosine = float(gram[0, 1])
        for norm in norms(gram):
            if norm > _TINY_NORM:
                cosine /= norm
        if abs(cosine) > _NEARLY_PARALLEL:
            return [1.0 - self._t, self._t]
        angle = math.acos(cosine)
        return [
            math.sin((1.0 - self._t) * angle) / math.sin(angle),
            math.sin(self._t * angle) / math.sin(angle),
        ]


def _two(block: Block) -> list[torch.Tensor]:
    return list(block.models) if block.base is None else block.task_vectors


def _arc(
    t: float, dot: torch.Tensor, square0: torch.Tensor, square1: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """NuSlerp's two factors for each angle; where the vectors are parallel the arc is a line."""
    norm0 = square0.sqrt().clamp(min=_NUSLERP_TINY_NORM)
    norm1 = square1.sqrt().clamp(min=_NUSLERP_TINY_NORM)
    cosine = (dot / (norm0 * norm1)).clamp(-1.0, 1.0)
    line = 1.0 - cosine * cosine <= _LINE
    angle = torch.where(line, 0.0, cosine).acos()
    first = torch.where(line, 1.0 - t, ((1.0 - t) * angle).sin() / angle.sin())
    second = torch.where(line, t, (t * angle).sin() / angle.sin())
    return first, second


class _NuSlerpWhole(GramKernel):
    def __init__(self, t: float, job: TensorJob) -> None:
        super().__init__(2, "task vectors" if job.has_base else "models", job.row_step)
        self._t = t

    def coefficients(self, gram: Matrix) -> list[float]:
        dot, square0, square1 = torch.tensor(
            [gram[0, 1], gram[0, 0], gram[1, 1]], dtype=torch.float64
        )
        first, second = _arc(self._t, dot, square0, square1)
        return [float(first), float(second)]


class _NuSlerpRows(Kernel):
    def __init__(self, t: float, row: int) -> None:
        self._t = t
        self._row = row

    def combine(self, block: Block) -> torch.Tensor:
        v0, v1 = (vector.view(-1, self._row) for vector in _two(block))
        sums = [(x * y).sum(dim=1, keepdim=True) for x, y in ((v0, v1), (v0, v0), (v1, v1))]
        first, second = _arc(self._t, *sums)
        mixed = (v0 * first + v1 * second).view(-1)
        return mixed if block.base is None else block.base + mixed


class _NuSlerpColumns(Kernel):
    passes = 1

    def __init__(self, t: float, job: TensorJob) -> None:
        self._t = t
        self._trailing = job.row
        self._middle = math.prod(job.shape[1:-1])
        self._step = job.row_step
        self._sums: list[torch.Tensor] | None = None

    def observe(self, index: int, block: Block) -> None:
        v0, v1 = _two(block)
        for start in range(0, v0.numel(), self._step):
            rows = [v[start : start + self._step].view(-1, self._trailing) for v in (v0, v1)]
            position = (block.start + start) // self._trailing % self._middle
            parts = [rows[0] * rows[1], rows[0] * rows[0], rows[1] * rows[1]]
            if self._sums is None:
                shape = (self._middle, self._trailing)
                self._sums = [torch.zeros(shape, dtype=v0.dtype, device=v0.device) for _ in parts]
            for total, part in zip(self._sums, parts, strict=True):
                add_rows(total, part, position)

    def combine(self, block: Block) -> torch.Tensor:
        assert self._sums is not None
        first, second = _arc(self._t, *self._sums)
        v0, v1 = (vector.view(-1, self._trailing) for vector in _two(block))
        position = block.start // self._trailing
        group = (torch.arange(v0.shape[0], device=v0.device) + position) % self._middle
        mixed = (v0 * first[group] + v1 * second[group]).view(-1)
        return mixed if block.base is None else block.base + mixed


def add_rows(totals: torch.Tensor, rows: torch.Tensor, position: int) -> None:
    """Add rows to as many totals in turn, the first of them to the one at `position`."""
    if rows.device.type == "cpu":
        group = (torch.arange(len(rows)) + position) % len(totals)
        totals.index_add_(0, group, rows)
        return
    # A GPU would add them in any order, another one each time: so always the same halves.
    count = -(-(position + len(rows)) // len(totals))
    turns = rows.new_zeros(count * len(totals), rows.shape[1])
    turns[position : position + len(rows)] = rows
    turns = turns.view(count, *totals.shape)
    while len(turns) > 1:
        half = (len(turns) + 1) // 2
        turns[: len(turns) - half] += turns[half:]
        turns = turns[:half]
    totals += turns[0]


def _multislerp(weights: Matrix, eps: float, gram: Matrix, tensor: str) -> list[float]:
    if len(weights) == 1:
        return [1.0]
    lengths = np.asarray(norms(gram))
    # A task vector of zeros has no direction, and none is needed: whatever scales it gives zeros.
    scales = np.divide(1.0, lengths + eps, out=np.zeros_like(lengths), where=lengths + eps > 0)
    units = gram * np.outer(scales, scales)
    mean_norm = math.sqrt(max(0.0, float(weights @ units @ weights)))
    if mean_norm < max(eps, _LEAST_MEAN):
        if len(weights) == 2 or not lengths.any():
            return [float(weight) for weight in weights]
        raise MergeflowError(
            f"the directions of tensor {tensor} cancel out and have no spherical mean",
            mend="change the weights",
        )
    mean = weights / mean_norm
    projections = units @ mean
    tangent = weights - float(weights @ projections) * mean
    length = math.sqrt(max(0.0, float(tangent @ units @ tangent))) + eps
    stretch = math.sin(length) / length if length else 1.0
    direction = mean * math.cos(length) + tangent * stretch
    size = float(weights @ lengths)
    return [float(value) for value in direction * scales * size]


class _MultiSlerp(GramKernel):
    def __init__(self, weights: Matrix, eps: float, job: TensorJob) -> None:
        super().__init__(len(weights), "task vectors" if job.has_base else "models")
        self._weights, self._eps, self._tensor = weights, eps, job.name

    def coefficients(self, gram: Matrix) -> list[float]:
        return _multislerp(self._weights, self._eps, gram, self._tensor)


class _Karcher(GramKernel):
    def __init__(self, count: int, iterations: int, tolerance: float) -> None:
        super().__init__(count, "models")
        self._iterations = iterations
        self._tolerance = tolerance

    def coefficients(self, gram: Matrix) -> list[float]:
        lengths = np.asarray(norms(gram))
        usable = lengths > self._tolerance
        if not usable.any():
            return [0.0] * len(lengths)
        scales = np.where(usable, 1.0 / np.where(usable, lengths, 1.0), 0.0)
        units = gram * np.outer(scales, scales)
        shares = usable / usable.sum()
        mean = self._mean(units, shares)
        size = float(lengths.mean())
        return [float(value) for value in mean * scales * size]

    def _mean(self, units: Matrix, shares: Matrix) -> Matrix:
        """Coefficients of the mean direction over the unit vectors, from their dot products."""

        def length(vector: Matrix) -> float:
            return math.sqrt(max(0.0, float(vector @ units @ vector)))

        mean = shares.copy()
        if length(mean) <= max(self._tolerance, _LEAST_MEAN):
            mean = np.zeros_like(shares)
            mean[int(np.argmax(shares > 0))] = 1.0
        mean /= length(mean)
        for _ in range(self._iterations):
            tangent = np.zeros_like(mean)
            for index in np.flatnonzero(shares):
                cosine = float(np.clip(units[index] @ mean, -1.0, 1.0))
                angle = math.acos(cosine)
                if angle <= self._tolerance or math.pi - angle < _OPPOSITE:
                    continue
                unit = np.zeros_like(mean)
                unit[index] = 1.0
                tangent += shares[index] * (angle / math.sin(angle)) * (unit - cosine * mean)
            step = length(tangent)
            if step <= self._tolerance:
                break
            mean = math.cos(step) * mean + math.sin(step) * tangent / step
            mean /= length(mean)
        return mean
