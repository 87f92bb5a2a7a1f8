"""PCB: parameters compete within their task vector and between task vectors for their share."""

from __future__ import annotations

from merge_core.methods.base import Block, Kernel, Method, TensorJob
from merge_core.methods.parameter import Parameter
from merge_core.methods.parts.quantiles import OrderStatistics
from merge_core.methods.parts.task_vector_sum import LAMBDA
from merge_core.reductions.sums import add_up, divided
from merge_core.runtime.lazy_torch import torch

_LEAST_SHARE = 1e-12


class Pcb(Method):
    """Weigh each entry by its size in its own task vector and its agreement with the others.

    a_i = |tau_i| clamped to its `clip` and 1 - `clip` quantiles, t_i = sign(tau_i)*a_i;
    score_i = exp(T * minmax(a_i)^2) * tanh(tau_i * sum_j tau_j), for T models; s_i = minmax of
    score_i raised to its 1 - `ratio` quantile; out = theta_0 + lambda * sum_i t_i*s_i / sum_i s_i,
    all tensor by tensor. A q quantile of n values is the one at position int(q*n) from its end.
    """

    name = "pcb"
    summary = "balance task vectors entry by entry: large and agreeing entries win"
    paper = "Du et al. 2024, Parameter competition balancing (arXiv:2410.02396)"
    parameters = (
        Parameter("ratio", "share of each task vector that takes part", 0.1, low=0, high=1),
        Parameter("clip", "share of outliers cut at either end of |tau|", 0.01, low=0, high=0.5),
        LAMBDA,
    )
    base = "required"
    granularity = "multipass"

    def kernel(self, job: TensorJob) -> Kernel:
        ratio, clip, scale = (float(job.parameters[name]) for name in ("ratio", "clip", "lambda"))
        return _Pcb(len(job.model_parameters), job.numel, ratio, clip, scale)


class _Pcb(Kernel):
    """The first passes find the ends of each task vector's sizes, the others those of its score."""

    passes = 2 * OrderStatistics.passes

    def __init__(self, models: int, numel: int, ratio: float, clip: float, scale: float) -> None:
        last = max(0, numel - 1)
        cut = min(int(clip * numel), last // 2)
        floor = min(int((1 - ratio) * numel), last)
        self._sizes = [OrderStatistics([cut, last - cut]) for _ in range(models)]
        self._scores = [OrderStatistics([floor, last]) for _ in range(models)]
        self._size_ends: list[list[float]] = []
        self._score_ends: list[list[float]] = []
        self._scale = scale

    def observe(self, index: int, block: Block) -> None:
        deltas = block.task_vectors
        if index < OrderStatistics.passes:
            for sizes, delta in zip(self._sizes, deltas, strict=True):
                sizes.observe(index, delta.abs())
        else:
            for statistics, score in zip(self._scores, self._scored(deltas), strict=True):
                statistics.observe(index - OrderStatistics.passes, score)

    def conclude(self, index: int) -> None:
        measuring = index < OrderStatistics.passes
        statistics = self._sizes if measuring else self._scores
        for each in statistics:
            each.conclude(index % OrderStatistics.passes)
        if index == OrderStatistics.passes - 1:
            self._size_ends = [each.values() for each in statistics]
        elif index == self.passes - 1:
            self._score_ends = [each.values() for each in statistics]

    def combine(self, block: Block) -> torch.Tensor:
        deltas = block.task_vectors
        total, shares = torch.zeros_like(deltas[0]), torch.zeros_like(deltas[0])
        members = zip(deltas, self._scored(deltas), self._size_ends, self._score_ends, strict=True)
        for delta, score, size_ends, score_ends in members:
            share = _share(score, *score_ends)
            total += delta.sign() * delta.abs().clamp(*size_ends) * share
            shares += share
        assert block.base is not None
        return block.base + total / shares.clamp(min=_LEAST_SHARE) * self._scale

    def _scored(self, deltas: list[torch.Tensor]) -> list[torch.Tensor]:
        together = add_up(deltas)
        count = len(deltas)
        return [
            (count * _between(delta.abs(), *ends) ** 2).exp() * (delta * together).tanh()
            for delta, ends in zip(deltas, self._size_ends, strict=True)
        ]


def _share(score: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Scores mapped to [0, 1]; where all that take part are equal, 1 for those above 0."""
    if high <= low:
        return ((score >= high) & (score > 0)).to(score.dtype)
    return _between(score, low, high)


def _between(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Values clamped to [low, high], then mapped to [0, 1]; 0 where the two are equal."""
    if high <= low:
        return torch.zeros_like(values)
    return divided(values.clamp(low, high) - low, high - low)
