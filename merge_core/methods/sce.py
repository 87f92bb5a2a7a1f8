"""SCE: select where models disagree most, weigh models by energy, elect signs."""

from __future__ import annotations

import math

from merge_core.methods.base import Block, Kernel, Method, TensorJob
from merge_core.methods.parameter import Parameter
from merge_core.methods.parts.task_vector_sum import INT8_MASK
from merge_core.methods.parts.top_k import LargestEntries
from merge_core.methods.parts.unordered import order_of, unordered_sum, vote
from merge_core.reductions.sums import Sum, divided
from merge_core.runtime.lazy_torch import torch

TINY = 1e-6
"""The least divisor."""


class Sce(Method):
    """Select, calculate, erase.

    Keep the int(select_topk * nnz) entries whose variance over the models is largest (all at 1);
    c_i = mean(tau_i^2) / sum_j mean(tau_j^2); s = sign(sum_i tau_i), + where it is 0;
    out = theta_0 + sum_agree c_i * tau_i / sum_agree c_i.
    """

    name = "sce"
    summary = "keep the entries of highest variance, weigh models by energy, elect signs"
    paper = "Wan et al. 2024, FuseChat (arXiv:2408.07990)"
    parameters = (
        Parameter("select_topk", "share of the varying entries that is kept", 1.0, low=0, high=1),
        INT8_MASK,
    )
    base = "required"
    elects = True
    granularity = "multipass"

    def kernel(self, job: TensorJob) -> Kernel:
        return _Sce(float(job.parameters["select_topk"]), len(job.model_parameters), job.numel)


class _Sce(Kernel):
    """Passes: count varying entries; select by variance (three); measure energies."""

    def __init__(self, topk: float, models: int, numel: int) -> None:
        self._topk = topk
        self._numel = max(1, numel)
        self._varying = 0
        self._selection: LargestEntries | None = None
        self._energies = [Sum() for _ in range(models)]
        self._shares: list[float] = []
        self._selecting = 1 + LargestEntries.passes if topk < 1 else 0
        self.passes = self._selecting + 1

    def observe(self, index: int, block: Block) -> None:
        deltas = block.task_vectors
        if index == self._selecting:
            for total, delta in zip(
                self._energies, self._selected(deltas, block.start), strict=True
            ):
                total.add(delta * delta)
        elif index == 0:
            self._varying += int((_variance(deltas) != 0).sum())
        elif self._selection is not None:
            self._selection.observe(index - 1, _variance(deltas), block.start)

    def conclude(self, index: int) -> None:
        if index == self._selecting:
            energies = [total.value / self._numel for total in self._energies]
            self._shares = energy_shares(energies)
        elif index == 0:
            self._selection = LargestEntries(int(self._topk * self._varying))
        elif self._selection is not None:
            self._selection.conclude(index - 1)

    def combine(self, block: Block) -> torch.Tensor:
        deltas = self._selected(block.task_vectors, block.start)
        positive = vote(deltas)
        agreeing = [torch.where(positive, delta > 0, delta < 0) for delta in deltas]
        chosen = [
            delta * agree * share
            for delta, agree, share in zip(deltas, agreeing, self._shares, strict=True)
        ]
        mixed = unordered_sum(chosen) + 0.0
        divisor = torch.zeros_like(mixed)
        for place in order_of(self._shares):
            divisor += agreeing[place].to(divisor.dtype) * self._shares[place]
        assert block.base is not None
        return block.base + mixed / divisor.clamp(min=TINY)

    def _selected(self, deltas: list[torch.Tensor], start: int) -> list[torch.Tensor]:
        if self._selection is None:
            return deltas
        mask = self._selection.mask(_variance(deltas), start)
        return [delta * mask for delta in deltas]


def _variance(deltas: list[torch.Tensor]) -> torch.Tensor:
    """Biased variance over the models, entry by entry, in any order; exactly 0 where all are
    equal."""
    lowest = deltas[0]
    for delta in deltas[1:]:
        lowest = torch.minimum(lowest, delta)
    offsets = [delta - lowest for delta in deltas]
    mean = divided(unordered_sum(offsets), len(offsets))
    return divided(unordered_sum([(offset - mean) ** 2 for offset in offsets]), len(offsets))


def energy_shares(energies: list[float]) -> list[float]:
    """The models' weights, from the mean squares of their selected entries."""
    total = math.fsum(energies)
    if abs(total) < TINY:
        return [1.0 / len(energies)] * len(energies)
    return [energy / total for energy in energies]
