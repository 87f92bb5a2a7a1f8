"""Data-free merging beyond mergekit: by extremes, by sign, by agreement, by depth."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from merge_core.methods.base import Block, Kernel, Method, ModelStatistics, TensorJob
from merge_core.methods.parameter import Parameter
from merge_core.methods.parts.model_statistics import (
    GLOBAL,
    WholeModelSums,
    global_norms,
    is_global,
    scope_parameter,
)
from merge_core.methods.parts.task_vector_sum import LAMBDA, WEIGHT
from merge_core.methods.parts.unordered import vote
from merge_core.reductions.sums import Sum, add_up
from merge_core.runtime.lazy_torch import torch


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
    elects = True

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
    """Task arithmetic with weights from the task vectors' norms.

    w_i = |tau_i|^2 / sum_j |tau_j|^2; out = theta_0 + lambda * sum_i w_i * tau_i. The norms are
    those of whole task vectors as in the paper, or with `scope: tensor` of each tensor's part.
    """

    name = "metagpt"
    summary = "task arithmetic with closed-form weights from norms"
    paper = "Zhou et al. 2024, MetaGPT (arXiv:2406.11385)"
    parameters = (LAMBDA, scope_parameter("measure norms", GLOBAL))
    base = "required"
    granularity = "multipass"

    def model_statistics(self, jobs: Sequence[TensorJob]) -> ModelStatistics | None:
        return _norms(jobs)

    def kernel(self, job: TensorJob) -> Kernel:
        return _ByNorm(job)


class NormalizedTaskArithmetic(Method):
    """Task arithmetic on task vectors of equal length, for experts trained for different lengths.

    n = mean_j |tau_j|; out = theta_0 + lambda * sum_i w_i * tau_i * n / |tau_i|. The norms are
    those of whole task vectors, or with `scope: tensor` of each tensor's part.
    """

    name = "normalized_task_arithmetic"
    summary = "task arithmetic on task vectors brought to their mean norm"
    paper = "Ilharco et al. 2023 (arXiv:2212.04089), with norms equalised"
    parameters = (WEIGHT, LAMBDA, scope_parameter("measure norms", GLOBAL))
    base = "required"
    granularity = "multipass"

    def model_statistics(self, jobs: Sequence[TensorJob]) -> ModelStatistics | None:
        return _norms(jobs)

    def kernel(self, job: TensorJob) -> Kernel:
        return _EqualNorms(job)


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
        positive = vote(deltas)
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


class _ScaledSum(Kernel):
    """Adds task vectors up by factors from their squared norms, here or of the whole model."""

    def __init__(self, job: TensorJob) -> None:
        self._scale = float(job.parameters["lambda"])
        self._squares = [Sum() for _ in job.model_parameters]
        self._factors: list[float] = []
        if is_global(job) and job.model_statistics is not None:
            assert isinstance(job.model_statistics, WholeModelSums)
            self._factors = self._from(job.model_statistics.sums(job))
        self.passes = int(not self._factors)

    def observe(self, index: int, block: Block) -> None:
        for total, delta in zip(self._squares, block.task_vectors, strict=True):
            total.add(delta * delta)

    def conclude(self, index: int) -> None:
        self._factors = self._from([total.value for total in self._squares])

    def combine(self, block: Block) -> torch.Tensor:
        assert block.base is not None
        weighted = zip(block.task_vectors, self._factors, strict=True)
        return block.base + add_up([delta * factor for delta, factor in weighted]) * self._scale

    @abstractmethod
    def _from(self, squares: list[float]) -> list[float]:
        """Each model's factor."""


class _ByNorm(_ScaledSum):
    def _from(self, squares: list[float]) -> list[float]:
        whole = sum(squares)
        return [square / whole if whole > 0 else 0.0 for square in squares]


class _EqualNorms(_ScaledSum):
    def __init__(self, job: TensorJob) -> None:
        self._weights = job.numbers("weight")
        super().__init__(job)

    def _from(self, squares: list[float]) -> list[float]:
        lengths = [square**0.5 for square in squares]
        mean = sum(lengths) / len(lengths)
        return [
            weight * mean / length if length > 0 else 0.0
            for weight, length in zip(self._weights, lengths, strict=True)
        ]


def _norms(jobs: Sequence[TensorJob]) -> ModelStatistics | None:
    return global_norms() if any(map(is_global, jobs)) else None
