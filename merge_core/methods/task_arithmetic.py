"""Task arithmetic and its family: sparsify task vectors, agree on signs, add them to the base.

One kernel serves all four methods; they differ in how a task vector is sparsified and in whether
signs are elected. The order of operations is mergekit's, in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from merge_core.methods.base import Block, Kernel, Method, TensorJob
from merge_core.methods.sparsify import KeepAll, KeepLargest, KeepRandom, Rescale, Sparsifier
from merge_core.parameters import Parameter

_TINY_SUM = 1e-8

_WEIGHT = Parameter("weight", "scale of this model's task vector", None, per_model=True)
_DENSITY = Parameter(
    "density", "share of the task vector that is kept", 1.0, per_model=True, low=0, high=1
)
_LAMBDA = Parameter("lambda", "scale of the merged task vector", 1.0)
_INT8_MASK = Parameter("int8_mask", "accepted for mergekit's sake; no effect", False, kind="flag")


def _normalize(default: bool) -> Parameter:
    return Parameter("normalize", "divide by the sum of the weights", default, kind="flag")


def _rescale(default: bool) -> Parameter:
    return Parameter(
        "rescale",
        "restore a sparsified task vector's size: true or l1, l2, inverse_density, none",
        default,
        kind="choice",
        choices=("l1", "l2", "inverse_density", "none"),
    )


class TaskArithmetic(Method):
    """out = theta_0 + lambda * sum_i w_i * (theta_i - theta_0).

    A negative weight removes what a model learned. `normalize` divides the sum by sum_i w_i.
    """

    name = "task_arithmetic"
    summary = "add (or, with negative weights, remove) scaled task vectors"
    paper = "Ilharco et al. 2023, Editing models with task arithmetic (arXiv:2212.04089)"
    parameters = (
        _WEIGHT,
        Parameter("density", "accepted for mergekit's sake; no effect", 1.0, per_model=True),
        _normalize(False),
        Parameter("rescale", "accepted for mergekit's sake; no effect", False, kind="flag"),
        _LAMBDA,
        _INT8_MASK,
    )
    base = "required"

    def kernel(self, job: TensorJob) -> Kernel:
        keepers: list[Sparsifier] = [KeepAll() for _ in job.model_parameters]
        return _TaskVectorSum(job, keepers, rescale="none", consensus=False)


class Ties(Method):
    """Trim each task vector to its largest entries, elect signs, average those who agree.

    tau_i = the max(1, int(density_i * n)) largest entries of theta_i - theta_0, tensor by tensor;
    s = sign(sum_i w_i * tau_i), + where it is 0;
    out = theta_0 + lambda * sum_agree w_i * tau_i / sum_agree w_i   (undivided without normalize).
    """

    name = "ties"
    summary = "trim task vectors, elect signs, merge the entries that agree"
    paper = "Yadav et al. 2023, TIES-Merging (arXiv:2306.01708)"
    parameters = (_WEIGHT, _DENSITY, _normalize(True), _rescale(False), _LAMBDA, _INT8_MASK)
    base = "required"
    granularity = "statistics"

    def kernel(self, job: TensorJob) -> Kernel:
        return _TaskVectorSum(job, _largest(job), rescale=_rescale_kind(job), consensus=True)


class DareLinear(Method):
    """Drop entries of each task vector at random, rescale what is left, add them to the base.

    out = theta_0 + lambda * sum_i w_i * r_i * m_i * (theta_i - theta_0);  m_i ~ Bernoulli(density)
    The paper's r is 1/density (`rescale: inverse_density`); the default `true` matches L1 norms.
    """

    name = "dare_linear"
    summary = "drop task-vector entries at random, rescale, add"
    paper = "Yu et al. 2024, Language models are super Mario (arXiv:2311.03099)"
    parameters = (_WEIGHT, _DENSITY, _normalize(False), _rescale(True), _LAMBDA, _INT8_MASK)
    base = "required"
    granularity = "statistics"
    random = True

    def kernel(self, job: TensorJob) -> Kernel:
        return _TaskVectorSum(job, _random(job), rescale=_rescale_kind(job), consensus=False)


class DareTies(Method):
    """DARE's random drop, then TIES' sign election.

    tau_i = r_i * m_i * (theta_i - theta_0), m_i ~ Bernoulli(density_i), r_i as for dare_linear;
    s = sign(sum_i w_i * tau_i), + where it is 0;
    out = theta_0 + lambda * sum_agree w_i * tau_i, over the models whose entry has the sign s.
    """

    name = "dare_ties"
    summary = "drop task-vector entries at random, rescale, merge the entries that agree in sign"
    paper = "Yu et al. 2024 (arXiv:2311.03099) with Yadav et al. 2023 (arXiv:2306.01708)"
    parameters = (_WEIGHT, _DENSITY, _normalize(False), _rescale(True), _LAMBDA, _INT8_MASK)
    base = "required"
    granularity = "statistics"
    random = True

    def kernel(self, job: TensorJob) -> Kernel:
        return _TaskVectorSum(job, _random(job), rescale=_rescale_kind(job), consensus=True)


class _TaskVectorSum(Kernel):
    def __init__(
        self, job: TensorJob, keepers: list[Sparsifier], *, rescale: str, consensus: bool
    ) -> None:
        self._weights = job.numbers("weight")
        self._keepers = keepers
        self._rescales = [
            Rescale("none" if isinstance(keeper, KeepAll) else rescale, density)
            for keeper, density in zip(keepers, job.numbers("density"), strict=True)
        ]
        self._join: Callable[[list[torch.Tensor]], torch.Tensor]
        self._join = self._sum_agreeing if consensus else self._sum_all
        self._normalize = bool(job.parameters["normalize"])
        self._lambda = float(job.parameters["lambda"])
        self._keeping_passes = max(keeper.passes for keeper in keepers)
        self.passes = self._keeping_passes + any(rescale.needs_pass for rescale in self._rescales)

    def observe(self, index: int, block: Block) -> None:
        members = zip(block.task_vectors, self._keepers, self._rescales, strict=True)
        for delta, keeper, rescale in members:
            if index < keeper.passes:
                keeper.observe(index, delta, block.start)
            elif index == self._keeping_passes and rescale.needs_pass:
                rescale.observe(delta, _kept(keeper, delta, block.start))

    def conclude(self, index: int) -> None:
        for keeper, rescale in zip(self._keepers, self._rescales, strict=True):
            if index < keeper.passes:
                keeper.conclude(index)
            elif index == self._keeping_passes and rescale.needs_pass:
                rescale.conclude()

    def combine(self, block: Block) -> torch.Tensor:
        weighted = []
        for delta, keeper, rescale, weight in zip(
            block.task_vectors, self._keepers, self._rescales, self._weights, strict=True
        ):
            kept = _kept(keeper, delta, block.start)
            if rescale.factor != 1.0:
                kept = kept * rescale.factor
            weighted.append(kept * weight)
        assert block.base is not None
        return block.base + self._join(weighted) * self._lambda

    def _sum_all(self, weighted: list[torch.Tensor]) -> torch.Tensor:
        total = _add_up(weighted)
        divisor = sum(self._weights)
        if self._normalize and abs(divisor) >= _TINY_SUM:
            total /= divisor
        return total

    def _sum_agreeing(self, weighted: list[torch.Tensor]) -> torch.Tensor:
        positive = _add_up(weighted) >= 0
        total = torch.zeros_like(weighted[0])
        divisor = torch.zeros_like(weighted[0])
        for values, weight in zip(weighted, self._weights, strict=True):
            agree = torch.where(positive, values > 0, values < 0)
            total += values * agree
            if self._normalize:
                divisor += agree * weight
        if self._normalize:
            divisor[divisor == 0] = 1.0
            total /= divisor
        return total


def _kept(keeper: Sparsifier, delta: torch.Tensor, start: int) -> torch.Tensor:
    mask = keeper.keep(delta, start)
    return delta if mask is None else delta * mask


def _add_up(tensors: list[torch.Tensor]) -> torch.Tensor:
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total += tensor
    return total


def _largest(job: TensorJob) -> list[Sparsifier]:
    return [
        KeepLargest(density, job.numel) if density < 1 else KeepAll()
        for density in job.numbers("density")
    ]


def _random(job: TensorJob) -> list[Sparsifier]:
    return [
        KeepRandom(density, key) if density < 1 else KeepAll()
        for density, key in zip(job.numbers("density"), job.random_keys, strict=True)
    ]


def _rescale_kind(job: TensorJob) -> str:
    value = job.parameters["rescale"]
    return {True: "l1", False: "none"}[value] if isinstance(value, bool) else str(value)
