"""Surveys: passes over a whole model, before its first tensor is computed.

Tensors are read by several workers in any order; a survey's findings do not depend on it. They are
not kept: a resumed merge surveys again, and finds the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from merge_core.methods import method_named
from merge_core.methods.base import Survey
from merge_core.planning.merged_tensor import Computation, Computing, MergedTensor
from merge_core.progress import Progress, Stopped, Throttle
from merge_core.runtime.gpu_memory import explained_shortage
from merge_core.runtime.gpu_transfers import own_queue


def run_surveys(
    surveys: Mapping[str, tuple[MergedTensor, ...]],
    found: dict[str, Survey],
    context: Callable[[], Computing],
    workers: int,
    progress: Progress | None = None,
) -> None:
    """Carry out surveys in their order: a later recipe may use the result of an earlier one.

    Args:
        found: where the findings go; the contexts look there.
        context: makes a worker's context.

    Raises:
        NonFiniteError, CheckpointError: an input is broken.
    """
    for key, tensors in surveys.items():
        survey = _survey_of(tensors)
        index = 0
        while index < survey.passes:
            _run_pass(survey, index, tensors, context, workers, progress)
            survey.conclude(index)
            index += 1
        found[key] = survey


def adopted_surveys(
    surveys: Mapping[str, tuple[MergedTensor, ...]], findings: Mapping[str, Mapping[str, Any]]
) -> dict[str, Survey]:
    """The surveys of a plan with what was found elsewhere, by their keys. Nothing is read."""
    adopted = {}
    for key, tensors in surveys.items():
        survey = _survey_of(tensors)
        survey.adopt(findings[key])
        adopted[key] = survey
    return adopted


def _survey_of(tensors: Sequence[MergedTensor]) -> Survey:
    survey = method_named(tensors[0].method).survey([tensor.job(None) for tensor in tensors])
    assert survey is not None
    return survey


def _run_pass(
    survey: Survey,
    index: int,
    tensors: Sequence[MergedTensor],
    context: Callable[[], Computing],
    workers: int,
    progress: Progress | None,
) -> None:
    lock = threading.Lock()
    queue = iter(tensors)
    total = sum(tensor.numel for tensor in tensors)
    throttle = Throttle(progress, f"survey {index + 1}", total)
    given_up = threading.Event()

    def work() -> None:
        mine = context()
        with own_queue(mine.device):
            show_tensors(mine)

    def show_tensors(mine: Computing) -> None:
        while not given_up.is_set() and not mine.stop.is_set():
            with lock:
                tensor = next(queue, None)
            if tensor is None:
                return
            try:
                with explained_shortage(f"look at tensor {tensor.name}"):
                    _see(survey, index, tensor, mine, lock, given_up)
            except BaseException:
                given_up.set()
                raise
            with lock:
                throttle.advance(tensor.numel)

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work) for _ in range(workers)]
        try:
            for future in futures:
                future.result()
        finally:
            given_up.set()


def _see(
    survey: Survey,
    index: int,
    tensor: MergedTensor,
    context: Computing,
    lock: threading.Lock,
    given_up: threading.Event,
) -> None:
    """Show one tensor to a probe, unless the pass is given up before its last block."""
    job = tensor.job(None)
    probe = survey.probe(index, job)
    if probe is None:
        return
    try:
        for block in Computation(tensor, context).blocks():
            if given_up.is_set():
                return
            probe.observe(block)
    except Stopped:
        return
    with lock:
        survey.absorb(index, job, probe)
