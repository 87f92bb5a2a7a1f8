"""The kernel of the task-arithmetic family: sparsify task vectors, agree on signs, add them up.

The methods differ in how a task vector is sparsified and in whether signs are elected. The order of
operations is mergekit's, in float64.
"""

from __future__ import annotations

from collections.abc import Callable

from merge_core.methods.base import Block, Kernel, TensorJob
from merge_core.methods.parameter import Parameter
from merge_core.methods.parts.sparsify import KeepAll, Rescale, Sparsifier
from merge_core.methods.parts.unordered import FEW, Parts, order_of
from merge_core.reductions.constants import CHUNK, TINY_SUM
from merge_core.reductions.sums import add_up, divided
from merge_core.runtime.lazy_torch import torch

WEIGHT = Parameter("weight", "scale of this model's task vector", None, per_model=True)
DENSITY = Parameter(
    "density", "share of the task vector that is kept", 1.0, per_model=True, low=0, high=1
)
LAMBDA = Parameter("lambda", "scale of the merged task vector", 1.0)
INT8_MASK = Parameter("int8_mask", "accepted for mergekit's sake; no effect", False, kind="flag")


ELECTION = (
    Parameter(
        "elect",
        "sign of an entry: of the models' sum, or of the count of their signs (majority)",
        "sum",
        kind="word",
        choices=("sum", "count"),
    ),
    Parameter(
        "average",
        "what normalize divides by: the agreeing models' weights, or their number",
        "weight",
        kind="word",
        choices=("weight", "count"),
    ),
)
"""How methods with sign election elect and average."""


def normalize_parameter(default: bool) -> Parameter:
    """Whether the sum is divided by the weights; the methods' defaults differ."""
    return Parameter("normalize", "divide by the sum of the weights", default, kind="flag")


def common_parameters(*, normalize: bool, rescale: bool) -> tuple[Parameter, ...]:
    """What every sparsifying method takes besides its own; only two defaults differ."""
    return (
        normalize_parameter(normalize),
        Parameter(
            "rescale",
            "restore a sparsified task vector's size: true or l1, l2, inverse_density, none",
            rescale,
            kind="choice",
            choices=("l1", "l2", "inverse_density", "none"),
        ),
        LAMBDA,
        INT8_MASK,
    )


def rescale_kind(job: TensorJob) -> str:
    """The rescale setting as one of its words: true is l1, false is none."""
    value = job.parameters["rescale"]
    return {True: "l1", False: "none"}[value] if isinstance(value, bool) else str(value)


class TaskVectorSum(Kernel):
    def __init__(
        self,
        job: TensorJob,
        keepers: list[Sparsifier],
        *,
        rescale: str,
        consensus: bool,
        step: int = CHUNK,
    ) -> None:
        self._weights = job.numbers("weight")
        self._keepers = keepers
        self._rescales = [
            Rescale("none" if isinstance(keeper, KeepAll) else rescale, density, step)
            for keeper, density in zip(keepers, job.numbers("density"), strict=True)
        ]
        self._join: Callable[[list[torch.Tensor]], torch.Tensor]
        self._join = self._sum_agreeing if consensus else self._sum_all
        self._normalize = bool(job.parameters["normalize"])
        self._lambda = float(job.parameters["lambda"])
        self._elect = job.parameters.get("elect", "sum")
        by_count = job.parameters.get("average", "weight") == "count"
        self._shares = [1.0] * len(keepers) if by_count else self._weights
        self._keeping_passes = max(keeper.passes for keeper in keepers)
        self.passes = self._keeping_passes + any(rescale.needs_pass for rescale in self._rescales)

    def observe(self, index: int, block: Block) -> None:
        members = zip(block.task_vectors, self._keepers, self._rescales, strict=True)
        for delta, keeper, rescale in members:
            if index < keeper.passes:
                keeper.observe(index, delta, block.start)
            elif index == self._keeping_passes and rescale.needs_pass:
                rescale.observe(delta, keeper.apply(delta, block.start))

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
            kept = keeper.apply(delta, block.start)
            if rescale.factor != 1.0:
                kept = kept * rescale.factor
            weighted.append(kept * weight)
        assert block.base is not None
        return block.base + self._join(weighted) * self._lambda

    def _sum_all(self, weighted: list[torch.Tensor]) -> torch.Tensor:
        total = add_up(weighted)
        divisor = sum(self._weights)
        if self._normalize and abs(divisor) >= TINY_SUM:
            return divided(total, divisor)
        return total

    def _sum_agreeing(self, weighted: list[torch.Tensor]) -> torch.Tensor:
        parts = Parts(weighted) if len(weighted) > FEW else None
        if self._elect == "count":
            positive = add_up([values.sign() for values in weighted]) >= 0
        else:
            positive = parts.are_positive() if parts else add_up(weighted) >= 0
        agreeing = [torch.where(positive, values > 0, values < 0) for values in weighted]
        total = parts.sum_where(agreeing) if parts else _sum_where(weighted, agreeing)
        if self._normalize:
            divisor = torch.zeros_like(total)
            for place in order_of(self._shares):
                divisor += agreeing[place].to(divisor.dtype) * self._shares[place]
            divisor[divisor.abs() < TINY_SUM] = 1.0
            total /= divisor
        return total


def _sum_where(terms: list[torch.Tensor], chosen: list[torch.Tensor]) -> torch.Tensor:
    total = torch.zeros_like(terms[0])
    for term, where in zip(terms, chosen, strict=True):
        total += term * where
    return total
