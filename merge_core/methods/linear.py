"""Weighted averaging of checkpoints, and the one-model method that frankenmerges are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from merge_core.errors import RecipeError
from merge_core.methods.base import Block, Kernel, Method, TensorJob
from merge_core.methods.parameter import Parameter, Scalar
from merge_core.reductions.constants import TINY_SUM
from merge_core.reductions.sums import divided
from merge_core.runtime.lazy_torch import torch


class Linear(Method):
    """out = sum_i w_i * theta_i, divided by sum_i w_i when `normalize` is set.

    With no weights given every model counts the same: a uniform soup. A base that is not listed
    under models has weight 0 and only lends config and tokenizer.
    """

    name = "linear"
    summary = "weighted average of the checkpoints; uniform soup when no weights are given"
    paper = "Wortsman et al. 2022, Model soups (arXiv:2203.05482)"
    parameters = (
        Parameter("weight", "share of this model", 1.0, per_model=True),
        Parameter("normalize", "divide by the sum of the weights", True, kind="flag"),
    )
    base_is_input = True

    def check(
        self,
        model_parameters: Sequence[Mapping[str, Scalar]],
        parameters: Mapping[str, Scalar],
    ) -> None:
        total = sum(float(each["weight"]) for each in model_parameters)
        if parameters["normalize"] and abs(total) < TINY_SUM:
            raise RecipeError(
                "the weights add up to 0 and cannot be normalised",
                mend="set normalize: false, or weights with another sum",
            )

    def kernel(self, job: TensorJob) -> Kernel:
        weights = job.numbers("weight")
        return _WeightedSum(weights, sum(weights) if job.parameters["normalize"] else 1.0)


class _WeightedSum(Kernel):
    def __init__(self, weights: list[float], divisor: float) -> None:
        self._weights = weights
        self._divisor = divisor

    def combine(self, block: Block) -> torch.Tensor:
        total = block.models[0] * self._weights[0]
        for model, weight in zip(block.models[1:], self._weights[1:], strict=True):
            total += model * weight
        return divided(total, self._divisor) if self._divisor != 1.0 else total


class Passthrough(Method):
    """out = scale * theta, of one model."""

    name = "passthrough"
    summary = "one model as it is, or scaled"
    paper = "folklore; used for layer stacking (frankenmerges)"
    parameters = (Parameter("scale", "factor on every weight", 1.0, per_model=True),)
    most_models = 1
    base_is_input = True

    def kernel(self, job: TensorJob) -> Kernel:
        return _WeightedSum(job.numbers("scale"), 1.0)
