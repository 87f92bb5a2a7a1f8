"""Sparsifying by rank: Breadcrumbs drops both ends of a task vector, DELLA draws by magnitude."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from merge_core.errors import RecipeError
from merge_core.methods.base import Kernel, Method, TensorJob
from merge_core.methods.parameter import Parameter, Scalar
from merge_core.methods.parts.sparsify import KeepAll, KeepBand, KeepByRank, KeepRandom, Sparsifier
from merge_core.methods.parts.task_vector_sum import (
    DENSITY,
    ELECTION,
    WEIGHT,
    TaskVectorSum,
    common_parameters,
    rescale_kind,
)

_GAMMA = Parameter(
    "gamma", "share of the largest entries that is dropped", 0.01, per_model=True, low=0, high=1
)
_EPSILON = Parameter(
    "epsilon",
    "spread of the probabilities around density",
    0.15,
    per_model=True,
    low=0,
    high=1,
)


class Breadcrumbs(Method):
    """Drop the largest and the smallest entries of each task vector, add the rest to the base.

    tau_i = theta_i - theta_0 without its int(gamma_i * n) largest entries and with only the next
    max(1, int(density_i * n)) of them; out = theta_0 + lambda * sum_i w_i * tau_i.
    """

    name = "breadcrumbs"
    summary = "drop outliers and small entries of task vectors, add"
    paper = "Davari and Belilovsky 2023, Model Breadcrumbs (arXiv:2312.06795)"
    parameters = (WEIGHT, DENSITY, _GAMMA, *common_parameters(normalize=False, rescale=False))
    base = "required"
    granularity = "multipass"

    def kernel(self, job: TensorJob) -> Kernel:
        return TaskVectorSum(job, _bands(job), rescale=rescale_kind(job), consensus=False)


class BreadcrumbsTies(Method):
    """Breadcrumbs' task vectors, merged with TIES' sign election.

    tau_i as for breadcrumbs; s = sign(sum_i w_i * tau_i), + where it is 0;
    out = theta_0 + lambda * sum_agree w_i * tau_i.
    """

    name = "breadcrumbs_ties"
    summary = "drop outliers and small entries of task vectors, merge the entries that agree"
    paper = "Davari and Belilovsky 2023 (arXiv:2312.06795) with Yadav et al. 2023"
    parameters = (
        WEIGHT,
        DENSITY,
        _GAMMA,
        *common_parameters(normalize=False, rescale=False),
        *ELECTION,
    )
    base = "required"
    elects = True
    granularity = "multipass"

    def kernel(self, job: TensorJob) -> Kernel:
        return TaskVectorSum(job, _bands(job), rescale=rescale_kind(job), consensus=True)


class _Della(Method):
    base = "required"
    granularity = "rowwise"
    random = True

    def check(
        self,
        model_parameters: Sequence[Mapping[str, Scalar]],
        parameters: Mapping[str, Scalar],
    ) -> None:
        for each in model_parameters:
            density, epsilon = float(each["density"]), float(each["epsilon"])
            if 0 < density < 1 and not (density - epsilon > 0 and density + epsilon < 1):
                raise RecipeError(
                    f"density {density:g} and epsilon {epsilon:g} give probabilities from"
                    f" {density - epsilon:g} to {density + epsilon:g}",
                    mend="use a smaller epsilon: all must lie between 0 and 1",
                )


class DellaLinear(_Della):
    """Draw entries of each task vector, large ones more likely, rescale, add them to the base.

    m_i ~ Bernoulli(density_i - epsilon_i + 2 * epsilon_i * rank/(row - 1)), ranks by magnitude
    within a row; out = theta_0 + lambda * sum_i w_i * r_i * m_i * (theta_i - theta_0). The paper's
    r is 1/p of each entry (`rescale: inverse_density`); the default `true` matches L1 norms.
    """

    name = "della_linear"
    summary = "draw task-vector entries by magnitude, rescale, add"
    paper = "Deep et al. 2024, DELLA-Merging (arXiv:2406.11617)"
    parameters = (WEIGHT, DENSITY, _EPSILON, *common_parameters(normalize=False, rescale=True))

    def kernel(self, job: TensorJob) -> Kernel:
        return _drawn_sum(job, consensus=False)


class Della(_Della):
    """DELLA's draw by magnitude, then TIES' sign election.

    tau_i = r_i * m_i * (theta_i - theta_0) as for della_linear; s = sign(sum_i w_i * tau_i);
    out = theta_0 + lambda * sum_agree w_i * tau_i / sum_agree w_i   (undivided without normalize).
    """

    name = "della"
    summary = "draw task-vector entries by magnitude, rescale, merge the entries that agree"
    paper = "Deep et al. 2024, DELLA-Merging (arXiv:2406.11617)"
    parameters = (
        WEIGHT,
        DENSITY,
        _EPSILON,
        *common_parameters(normalize=True, rescale=True),
        *ELECTION,
    )

    elects = True

    def kernel(self, job: TensorJob) -> Kernel:
        return _drawn_sum(job, consensus=True)


def _bands(job: TensorJob) -> list[Sparsifier]:
    return [
        KeepBand(density, gamma, job.numel) if density < 1 else KeepAll()
        for density, gamma in zip(job.numbers("density"), job.numbers("gamma"), strict=True)
    ]


def _drawn_sum(job: TensorJob, *, consensus: bool) -> Kernel:
    kind = rescale_kind(job)
    inverse = kind == "inverse_density"
    settings = zip(job.numbers("density"), job.numbers("epsilon"), job.random_keys, strict=True)
    keepers: list[Sparsifier] = [
        KeepByRank(density, epsilon, job.row, key, inverse=inverse)
        if 0 < density < 1
        else (KeepAll() if density > 0 else KeepRandom(0.0, key))
        for density, epsilon, key in settings
    ]
    return TaskVectorSum(
        job,
        keepers,
        rescale="none" if inverse else kind,
        consensus=consensus,
        step=job.row_step,
    )
