"""Arcee fusion: take over the changes that stand out, by size and by what they do to a row."""

from __future__ import annotations

from merge_core.methods.base import Block, Kernel, Method, TensorJob
from merge_core.methods.parts.quantiles import OrderStatistics
from merge_core.runtime.lazy_torch import torch

_LEAST = 1e-8
"""Added to every probability."""
_ROUNDING = 1e-12
"""Relative distance below the threshold that still counts as at it: stored values are coarse, and
where rows share their divergence many entries lie exactly there."""


class ArceeFusion(Method):
    """Keep the model's weight where its importance stands out, the base's elsewhere.

    p = softmax(theta_1) + 1e-8, q = softmax(theta_0) + 1e-8 along the last dimension;
    I = |theta_1 - theta_0| * sum p*log(p/q), the sum along the same; Q1, Q2, Q3 = quartiles of I
    over the tensor, at positions floor(k*(n-1)/4); out = theta_1 where I >= Q2 + 1.5*(Q3 - Q1),
    theta_0 elsewhere. (mergekit takes the quartiles of a random million of entries.)
    """

    name = "arcee_fusion"
    summary = "take the model's weights whose change stands out, keep the base's others"
    paper = "Arcee AI 2024, mergekit's arcee_fusion"
    base = "required"
    base_role = "one of the two models, into which the other's changes are taken over"
    most_models = 1
    granularity = "rowwise"

    def kernel(self, job: TensorJob) -> Kernel:
        return _ArceeFusion(job)


class _ArceeFusion(Kernel):
    passes = OrderStatistics.passes

    def __init__(self, job: TensorJob) -> None:
        self._row = job.row
        last = job.numel - 1
        self._quartiles = OrderStatistics([last // 4, last // 2, last * 3 // 4])
        self._threshold = 0.0

    def observe(self, index: int, block: Block) -> None:
        self._quartiles.observe(index, self._importance(block))

    def conclude(self, index: int) -> None:
        self._quartiles.conclude(index)
        if index == self.passes - 1:
            first, second, third = self._quartiles.values()
            self._threshold = (second + 1.5 * (third - first)) * (1 - _ROUNDING)

    def combine(self, block: Block) -> torch.Tensor:
        assert block.base is not None
        chosen = self._importance(block) >= self._threshold
        return torch.where(chosen, block.models[0], block.base)

    def _importance(self, block: Block) -> torch.Tensor:
        assert block.base is not None
        base, model = (values.view(-1, self._row) for values in (block.base, block.models[0]))
        p, q = (torch.softmax(rows, dim=1) + _LEAST for rows in (model, base))
        divergence = (p * (p / q).log()).sum(dim=1, keepdim=True)
        return ((model - base).abs() * divergence).view(-1)
