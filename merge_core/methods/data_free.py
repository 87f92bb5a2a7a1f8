"""Data-free merging beyond mergekit: by extremes, by sign, by agreement, by depth."""

from __future__ import annotations

import torch

from merge_core.methods.base import Block, Kernel, Method, Sum, TensorJob, add_up
from merge_core.methods.task_vector_sum import LAMBDA, WEIGHT
from merge_core.parameters import Parameter


class MagMax(Method):
    """Of each weight keep the largest change.

    tau = the tau_i of largest magnitude (the first of equals); out = theta_0 + lambda * tau.
    """

    name = "magmax"
    summary = "the change of largest magnitude, weight by weight"
    paper = "Marczak et al. 2024, MagMax (arXiv:2407.06322)"
    parameters = (Parameter("lambda", "scale of the merged task vector", 0.5),)
    base = "required"

    def kernel(self, job: TensorJob) -> Kernel:
        return _MagMax(float(job.parameters["lambda"]))


class Emr(Method):
    """EMR's unified task vector: the elected sign with the largest magnitude that agrees.

    s = sign(sum_i tau_i), + where it is 0; tau = s * max_i |tau_i| over the models with sign s;
    out = theta_0 + lambda * tau. (The paper's masks and scales of each task are not part of it.)
    """

    name = "emr"
    summary = "elect signs, take the largest magnitude that agrees"
    paper = "Huang et al. 2024, EMR-Merging (arXiv:2405.17461)"
    parameters = (LAMBDA,)
    base = "required"

    def kernel(self, job: TensorJob) -> Kernel:
        return _Emr(float(job.parameters["lambda"]))


class ConsensusTaskArithmetic(Method):
    """Task arithmetic on the weights that at least k models find important (TALL masks).

    tau = sum_i tau_i; m_i = |tau_i| > tall_lambda * |tau - tau_i|;
    out = theta_0 + lambda * tau * [sum_i m_i >= k].
    """

    name = "consensus_ta"
    summary = "task arithmetic where at least k task vectors are relevant"
    paper = "Wang et al. 2024, Localizing task information (arXiv:2405.07813)"
    parameters = (
        Parameter("k", "models that must find a weight important", 2.0, low=0),
        Parameter("tall_lambda", "strictness of a model's mask; the paper tries 0.2 to 0.6", 0.4),
        Parameter("lambda", "scale of the merged task vector", 0.3),
    )
    base = "required"

    def kernel(self, job: TensorJob) -> Kernel:
        values = [float(job.parameters[name]) for name in ("k", "tall_lambda", "lambda")]
        return _Consensus(*values)


class MetaGpt(Method):
    """Task arithmetic with weights from the task vectors' norms, tensor by tensor.

    w_i = |tau_i|^2 / sum_j |tau_j|^2; out = theta_0 + lambda * sum_i w_i * tau_i.
    """

    name = "metagpt"
    summary = "task arithmetic with closed-form weights from norms"
    paper = "Zhou et al. 2024, MetaGPT (arXiv:2406.11385)"
    parameters = (LAMBDA,)
    base = "required"
    granularity = "statistics"

    def kernel(self, job: TensorJob) -> Kernel:
        return _ByNorm(len(job.model_parameters), float(job.parameters["lambda"]))


class NormalizedTaskArithmetic(Method):
    """Task arithmetic on task vectors of equal length, for experts trained for different lengths.

    n = mean_j |tau_j|; out = theta_0 + lambda * sum_i w_i * tau_i * n / |tau_i|, tensor by tensor.
    """

    name = "normalized_task_arithmetic"
    summary = "task arithmetic on task vectors brought to their mean norm"
    paper = "Ilharco et al. 2023 (arXiv:2212.04089), with norms equalised"
    parameters = (WEIGHT, LAMBDA)
    base = "required"
    granularity = "statistics"

    def kernel(self, job: TensorJob) -> Kernel:
        return _EqualNorms(job.numbers("weight"), float(job.parameters["lambda"]))


class _MagMax(Kernel):
    def __init__(self, scale: float) -> None:
        self._scale = scale

    def combine(self, block: Block) -> torch.Tensor:
        first, *others = block.task_vectors
        largest = first.clone()
        for delta in others:
            largest = torch.where(delta.abs() > largest.abs(), delta, largest)
        assert block.base is not None
        return block.base + largest * self._scale


class _Emr(Kernel):
    def __init__(self, scale: float) -> None:
        self._scale = scale

    def combine(self, block: Block) -> torch.Tensor:
        deltas = block.task_vectors
        positive = add_up(deltas) >= 0
        upper = torch.zeros_like(deltas[0])
        lower = torch.zeros_like(deltas[0])
        for delta in deltas:
            upper = torch.maximum(upper, delta)
            lower = torch.minimum(lower, delta)
        assert block.base is not None
        return block.base + torch.where(positive, upper, lower) * self._scale


class _Consensus(Kernel):
    def __init__(self, k: float, strictness: float, scale: float) -> None:
        self._k, self._strictness, self._scale = k, strictness, scale

    def combine(self, block: Block) -> torch.Tensor:
        deltas = block.task_vectors
        total = add_up(deltas)
        votes = torch.zeros_like(total)
        for delta in deltas:
            votes += delta.abs() > (total - delta).abs() * self._strictness
        assert block.base is not None
        return block.base + total * (votes >= self._k) * self._scale


class _Squares(Kernel):
    """Measures every task vector's squared norm, then adds them up by factors from the norms."""

    passes = 1

    def __init__(self, models: int, scale: float) -> None:
        self._squares = [Sum() for _ in range(models)]
        self._scale = scale
        self._factors: list[float] = []

    def observe(self, index: int, block: Block) -> None:
        for total, delta in zip(self._squares, block.task_vectors, strict=True):
            total.add(delta * delta)

    def combine(self, block: Block) -> torch.Tensor:
        assert block.base is not None
        weighted = zip(block.task_vectors, self._factors, strict=True)
        return block.base + add_up([delta * factor for delta, factor in weighted]) * self._scale


class _ByNorm(_Squares):
    def conclude(self, index: int) -> None:
        squares = [total.value for total in self._squares]
        whole = sum(squares)
        self._factors = [square / whole if whole > 0 else 0.0 for square in squares]


class _EqualNorms(_Squares):
    def __init__(self, weights: list[float], scale: float) -> None:
        super().__init__(len(weights), scale)
        self._weights = weights

    def conclude(self, index: int) -> None:
        lengths = [total.value**0.5 for total in self._squares]
        mean = sum(lengths) / len(lengths)
        self._factors = [
            weight * mean / length if length > 0 else 0.0
            for weight, length in zip(self._weights, lengths, strict=True)
        ]
