"""Task arithmetic and its best known children: TIES, and DARE with and without sign election."""

from __future__ import annotations

from collections.abc import Sequence

from merge_core.methods.base import Kernel, Method, ModelStatistics, TensorJob
from merge_core.methods.parameter import Parameter
from merge_core.methods.parts.model_statistics import TENSOR, GlobalTrim, is_global, scope_parameter
from merge_core.methods.parts.sparsify import KeepAll, KeepLargest, KeepRandom, Sparsifier
from merge_core.methods.parts.task_vector_sum import (
    DENSITY,
    ELECTION,
    INT8_MASK,
    LAMBDA,
    WEIGHT,
    TaskVectorSum,
    common_parameters,
    normalize_parameter,
    rescale_kind,
)


class TaskArithmetic(Method):
    """out = theta_0 + lambda * sum_i w_i * (theta_i - theta_0).

    A negative weight removes what a model learned. `normalize` divides the sum by sum_i w_i.
    """

    name = "task_arithmetic"
    summary = "add (or, with negative weights, remove) scaled task vectors"
    paper = "Ilharco et al. 2023, Editing models with task arithmetic (arXiv:2212.04089)"
    parameters = (
        WEIGHT,
        Parameter("density", "accepted for mergekit's sake; no effect", 1.0, per_model=True),
        normalize_parameter(False),
        Parameter("rescale", "accepted for mergekit's sake; no effect", False, kind="flag"),
        LAMBDA,
        INT8_MASK,
    )
    base = "required"

    def kernel(self, job: TensorJob) -> Kernel:
        keepers: list[Sparsifier] = [KeepAll() for _ in job.model_parameters]
        return TaskVectorSum(job, keepers, rescale="none", consensus=False)


class Ties(Method):
    """Trim each task vector to its largest entries, elect signs, average those who agree.

    tau_i = the max(1, int(density_i * n)) largest entries of theta_i - theta_0, n those of the
    tensor, or with `scope: global` of the whole model as in the paper;
    s = sign(sum_i w_i * tau_i), + where it is 0; `elect: count` takes sign(sum_i sign(w_i tau_i));
    out = theta_0 + lambda * sum_agree w_i * tau_i / sum_agree w_i   (undivided without normalize;
    `average: count` divides by the number of models that agree, as in the paper).
    """

    name = "ties"
    summary = "trim task vectors, elect signs, merge the entries that agree"
    paper = "Yadav et al. 2023, TIES-Merging (arXiv:2306.01708)"
    parameters = (
        WEIGHT,
        DENSITY,
        *common_parameters(normalize=True, rescale=False),
        *ELECTION,
        scope_parameter("trim", TENSOR),
    )
    base = "required"
    elects = True
    granularity = "multipass"

    def model_statistics(self, jobs: Sequence[TensorJob]) -> ModelStatistics | None:
        trim = GlobalTrim(jobs)
        return trim if trim.is_needed else None

    def kernel(self, job: TensorJob) -> Kernel:
        if is_global(job) and job.model_statistics is not None:
            assert isinstance(job.model_statistics, GlobalTrim)
            keepers = job.model_statistics.keepers(job)
        else:
            keepers = _largest(job)
        return TaskVectorSum(job, keepers, rescale=rescale_kind(job), consensus=True)


class DareLinear(Method):
    """Drop entries of each task vector at random, rescale what is left, add them to the base.

    out = theta_0 + lambda * sum_i w_i * r_i * m_i * (theta_i - theta_0);  m_i ~ Bernoulli(density)
    The paper's r is 1/density (`rescale: inverse_density`); the default `true` matches L1 norms.
    """

    name = "dare_linear"
    summary = "drop task-vector entries at random, rescale, add"
    paper = "Yu et al. 2024, Language models are super Mario (arXiv:2311.03099)"
    parameters = (
        WEIGHT,
        DENSITY,
        *common_parameters(normalize=False, rescale=True),
    )
    base = "required"
    granularity = "multipass"
    random = True

    def kernel(self, job: TensorJob) -> Kernel:
        return TaskVectorSum(job, _random(job), rescale=rescale_kind(job), consensus=False)


class DareTies(Method):
    """DARE's random drop, then TIES' sign election.

    tau_i = r_i * m_i * (theta_i - theta_0), m_i ~ Bernoulli(density_i), r_i as for dare_linear;
    s = sign(sum_i w_i * tau_i), + where it is 0 (`elect: count`: of their signs' sum);
    out = theta_0 + lambda * sum_agree w_i * tau_i, over the models whose entry has the sign s.
    """

    name = "dare_ties"
    summary = "drop task-vector entries at random, rescale, merge the entries that agree in sign"
    paper = "Yu et al. 2024 (arXiv:2311.03099) with Yadav et al. 2023 (arXiv:2306.01708)"
    parameters = (
        WEIGHT,
        DENSITY,
        *common_parameters(normalize=False, rescale=True),
        *ELECTION,
    )
    base = "required"
    elects = True
    granularity = "multipass"
    random = True

    def kernel(self, job: TensorJob) -> Kernel:
        return TaskVectorSum(job, _random(job), rescale=rescale_kind(job), consensus=True)


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
