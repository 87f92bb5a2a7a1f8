"""Methods that weigh the models by what they do on data: gradients, inputs of layers, losses.

What was measured comes with the blocks; tensors that nothing was measured for take the weighted
mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from merge_core.errors import RecipeError
from merge_core.methods.base import Block, Kernel, Method, TensorJob
from merge_core.methods.parameter import Parameter, Scalar
from merge_core.reductions.constants import TINY_SUM
from merge_core.reductions.sums import Sum, add_up, divided
from merge_core.runtime.lazy_torch import torch

_WEIGHT = Parameter("weight", "share of this model", 1.0, per_model=True, low=0)


class Fisher(Method):
    """out = sum_i w_i*F_i*theta_i / sum_i w_i*F_i, element by element.

    F_i is model i's mean squared gradient of the loss of each calibration sample (the diagonal of
    the empirical Fisher information), but at least `floor` times the mean of all models' F over the
    tensor, so that elements which no sample reaches take the mean. So do tensors without gradients.
    """

    name = "fisher"
    summary = "mean that trusts each model where its loss is sensitive; uses data"
    paper = "Matena & Raffel 2022, Merging models with Fisher-weighted averaging (arXiv:2111.09832)"
    parameters = (
        _WEIGHT,
        Parameter("floor", "least F, as a share of the tensor's mean F", 1e-6, low=1e-12, high=1),
    )
    base_is_input = True
    granularity = "multipass"
    calibration = "fisher"

    def check(
        self,
        model_parameters: Sequence[Mapping[str, Scalar]],
        parameters: Mapping[str, Scalar],
    ) -> None:
        _check_weights(model_parameters)

    def kernel(self, job: TensorJob) -> Kernel:
        return _Fisher(job)


class _Fisher(Kernel):
    passes = 1

    def __init__(self, job: TensorJob) -> None:
        self._weights = job.numbers("weight")
        self._floor = float(job.parameters["floor"])
        self._sums = [Sum() for _ in self._weights]
        self._mean = 0.0
        self._numel = job.numel

    def observe(self, index: int, block: Block) -> None:
        for total, fisher in zip(self._sums, block.calibration, strict=False):
            total.add(fisher)

    def conclude(self, index: int) -> None:
        count = max(1, self._numel) * len(self._sums)
        self._mean = sum(total.value for total in self._sums) / count

    def combine(self, block: Block) -> torch.Tensor:
        if self._mean <= 0.0:
            return _mean(block.models, self._weights)
        above = torch.zeros_like(block.models[0])
        below = torch.zeros_like(above)
        for model, fisher, weight in zip(
            block.models, block.calibration, self._weights, strict=True
        ):
            trust = divided(fisher, self._mean).clamp(min=self._floor) * weight
            above += trust * model
            below += trust
        return above / below


class RegMean(Method):
    """W = (sum_i w_i*W_i*G_i) * (sum_i w_i*G_i)^-1, for the matrix W (out x in) of a linear layer.

    G_i is the mean over the calibration tokens of x*x^T, x the layer's input in model i, with its
    entries off the diagonal times `alpha`, plus on the diagonal `ridge` times that of sum_i G_i on
    average: the W whose outputs are nearest to each model's own. Inputs that no sample reaches, and
    tensors that are not the matrix of a linear layer (norms, biases, embeddings, tied heads,
    experts that are one tensor in memory), take the weighted mean.
    """

    name = "regmean"
    summary = "linear layers whose outputs are nearest to every model's own; uses data"
    paper = "Jin et al. 2023, Dataless knowledge fusion (arXiv:2212.09849)"
    parameters = (
        _WEIGHT,
        Parameter("alpha", "factor of G off the diagonal", 0.9, low=0, high=1),
        Parameter("ridge", "pull towards the mean, relative to G", 1e-6, low=1e-12, high=1),
    )
    base_is_input = True
    granularity = "matrix"
    calibration = "gram"

    def check(
        self,
        model_parameters: Sequence[Mapping[str, Scalar]],
        parameters: Mapping[str, Scalar],
    ) -> None:
        _check_weights(model_parameters)

    def kernel(self, job: TensorJob) -> Kernel:
        return _RegMean(job)


class _RegMean(Kernel):
    def __init__(self, job: TensorJob) -> None:
        self._shape = job.shape
        self._weights = job.numbers("weight")
        self._alpha = float(job.parameters["alpha"])
        self._ridge = float(job.parameters["ridge"])

    def combine(self, block: Block) -> torch.Tensor:
        mean = _mean(block.models, self._weights)
        if not block.calibration:
            return mean
        axis = inputs_axis(block.calibration[0])
        grams = [gram_matrix(statistic) for statistic in block.calibration]
        level = self._ridge * float(add_up([gram.diagonal() for gram in grams]).mean())
        if level <= 0.0:
            return mean
        pulls = []
        for gram, weight in zip(grams, self._weights, strict=True):
            diagonal = gram.diagonal().clone()
            gram *= self._alpha
            gram.diagonal().copy_(diagonal + level)
            gram *= weight
        for gram, model in zip(grams, block.models, strict=True):
            away = (model - mean).view(self._shape)
            pulls.append(gram @ (away.T if axis == 1 else away))
        factor = torch.linalg.cholesky(add_up(grams))
        moved = torch.cholesky_solve(add_up(pulls), factor)
        return mean + (moved.T if axis == 1 else moved).reshape(-1)


def pack_gram(gram: torch.Tensor, axis: int) -> torch.Tensor:
    """A statistic for RegMean: the axis of the weight that the inputs are along, then G, flat."""
    return torch.cat([gram.new_tensor([axis]), gram.reshape(-1)])


def inputs_axis(statistic: torch.Tensor) -> int:
    """1 where the weight is (out x in), as torch has it; 0 where it is (in x out), as in GPT-2."""
    return int(statistic[0])


def gram_matrix(statistic: torch.Tensor) -> torch.Tensor:
    """The matrix G of a packed statistic, as a copy."""
    size = math.isqrt(statistic.numel() - 1)
    return statistic[1:].view(size, size).clone()


class LmCocktail(Method):
    """out = sum_i w_i*theta_i with w = softmax(-loss / temperature).

    loss_i is model i's mean negative log-likelihood of a token of the calibration data, in nats.
    """

    name = "lm_cocktail"
    summary = "average with weights from the models' losses on a few examples; uses data"
    paper = "Xiao et al. 2023, LM-Cocktail (arXiv:2311.13534)"
    parameters = (
        Parameter("temperature", "the lower, the more the best model counts", 5.0, low=1e-3),
    )
    base_is_input = True
    calibration = "loss"

    def kernel(self, job: TensorJob) -> Kernel:
        return _LmCocktail(job)


class _LmCocktail(Kernel):
    def __init__(self, job: TensorJob) -> None:
        self._temperature = float(job.parameters["temperature"])

    def combine(self, block: Block) -> torch.Tensor:
        losses = [float(loss) for loss in block.calibration] or [0.0] * len(block.models)
        least = min(losses)
        weights = [math.exp((least - loss) / self._temperature) for loss in losses]
        return _mean(block.models, weights)


def _mean(models: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    weighted = [model * weight for model, weight in zip(models, weights, strict=True)]
    return divided(add_up(weighted), sum(weights))


def _check_weights(model_parameters: Sequence[Mapping[str, Scalar]]) -> None:
    if sum(float(each["weight"]) for each in model_parameters) < TINY_SUM:
        raise RecipeError("all weights are 0", mend="give a model a weight above 0")
