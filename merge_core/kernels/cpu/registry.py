"""Which methods have a fused kernel, and how a tensor's settings become one."""

from __future__ import annotations

from collections.abc import Callable

from merge_core.kernels.cpu.families import (
    Band,
    Bands,
    Combination,
    Joining,
    TaskVectors,
    WeightedSum,
)
from merge_core.kernels.cpu.random_drop import Draw, RandomDraws
from merge_core.kernels.cpu.sce import SelectByVariance
from merge_core.kernels.cpu.stored_tensor import FusedKernel
from merge_core.methods import method_named
from merge_core.methods.base import TensorJob
from merge_core.methods.parts.gram import GramKernel
from merge_core.methods.parts.model_statistics import is_global
from merge_core.methods.parts.sparsify import kept_count
from merge_core.methods.parts.task_vector_sum import rescale_kind
from merge_core.reductions.constants import CHUNK

_Builder = Callable[[TensorJob], FusedKernel | None]

FUSED: dict[str, _Builder] = {}
COMBINATIONS = ("slerp", "nuslerp", "multislerp", "karcher", "model_stock")
"""Methods whose kernel is, with some settings at least, a `GramKernel`."""


def fused_kernel(method: str, job: TensorJob) -> FusedKernel | None:
    """The fused kernel for a tensor, or None where only the method's own kernel will do."""
    if not job.numel or job.model_statistics is not None:
        return None
    builder = FUSED.get(method)
    if builder:
        return builder(job)
    if method in COMBINATIONS:
        kernel = method_named(method).kernel(job)
        return Combination(kernel) if isinstance(kernel, GramKernel) else None
    return None


def _method(*names: str) -> Callable[[_Builder], _Builder]:
    def register(builder: _Builder) -> _Builder:
        FUSED.update(dict.fromkeys(names, builder))
        return builder

    return register


@_method("linear")
def _linear(job: TensorJob) -> FusedKernel:
    weights = job.numbers("weight")
    return WeightedSum(weights, sum(weights) if job.parameters["normalize"] else 1.0)


@_method("passthrough")
def _passthrough(job: TensorJob) -> FusedKernel:
    return WeightedSum(job.numbers("scale"), 1.0)


@_method("task_arithmetic")
def _task_arithmetic(job: TensorJob) -> FusedKernel:
    return TaskVectors(_joining(job, consensus=False))


@_method("dare_linear")
def _dare_linear(job: TensorJob) -> FusedKernel:
    return _drawn(job, consensus=False)


@_method("dare_ties")
def _dare_ties(job: TensorJob) -> FusedKernel:
    return _drawn(job, consensus=True)


def _drawn(job: TensorJob, *, consensus: bool) -> FusedKernel:
    densities = job.numbers("density")
    draws = [Draw(*each) for each in zip(densities, job.random_keys, strict=True)]
    kind = rescale_kind(job)
    factors = [
        1.0 / density if kind == "inverse_density" and 0 < density < 1 else 1.0
        for density in densities
    ]
    restore = kind if kind in ("l1", "l2") else None
    return RandomDraws(_joining(job, consensus=consensus), draws, factors, restore, 1, CHUNK)


@_method("ties")
def _ties(job: TensorJob) -> FusedKernel | None:
    if is_global(job) or rescale_kind(job) != "none":
        return None
    bands = [Band(kept_count(density, job.numel)) for density in job.numbers("density")]
    return Bands(_joining(job, consensus=True), bands)


@_method("breadcrumbs")
def _breadcrumbs(job: TensorJob) -> FusedKernel | None:
    return _banded(job, consensus=False)


@_method("breadcrumbs_ties")
def _breadcrumbs_ties(job: TensorJob) -> FusedKernel | None:
    return _banded(job, consensus=True)


@_method("sce")
def _sce(job: TensorJob) -> FusedKernel:
    return SelectByVariance(float(job.parameters["select_topk"]), len(job.model_parameters))


@_method("della_linear")
def _della_linear(job: TensorJob) -> FusedKernel | None:
    return _drawn_by_rank(job, consensus=False)


@_method("della")
def _della(job: TensorJob) -> FusedKernel | None:
    return _drawn_by_rank(job, consensus=True)


def _drawn_by_rank(job: TensorJob, *, consensus: bool) -> FusedKernel | None:
    kind = rescale_kind(job)
    if kind == "inverse_density":
        return None
    settings = zip(job.numbers("density"), job.random_keys, job.numbers("epsilon"), strict=True)
    draws = [Draw(*each) for each in settings]
    factors = [1.0] * len(draws)
    restore = None if kind == "none" else kind
    joining = _joining(job, consensus=consensus)
    return RandomDraws(joining, draws, factors, restore, job.row, job.row_step)


def _banded(job: TensorJob, *, consensus: bool) -> FusedKernel | None:
    if rescale_kind(job) != "none":
        return None
    bands = []
    for density, gamma in zip(job.numbers("density"), job.numbers("gamma"), strict=True):
        kept = kept_count(density, job.numel)
        dropped = min(int(gamma * job.numel), job.numel - kept) if density < 1 else 0
        bands.append(Band(kept, dropped))
    return Bands(_joining(job, consensus=consensus), bands)


def _joining(job: TensorJob, *, consensus: bool) -> Joining:
    parameters = job.parameters
    return Joining(
        weights=tuple(job.numbers("weight")),
        scale=float(parameters["lambda"]),
        normalize=bool(parameters["normalize"]),
        consensus=consensus,
        by_count=parameters.get("elect", "sum") == "count",
        divide_by_count=parameters.get("average", "weight") == "count",
    )
