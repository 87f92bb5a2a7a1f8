"""Gathers model statistics: passes over a whole model, before its first tensor is computed.

Several workers read the tensors, in any order; the statistics do not depend on it. They are not
kept: a resumed merge gathers them again, and finds the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from merge_core.methods import method_named
from merge_core.methods.base import ModelStatistics
from merge_core.planning.merged_tensor import Computation, Computing, MergedTensor
from merge_core.progress import Progress, Stopped, Throttle
from merge_core.runtime.gpu_memory import explained_shortage
from merge_core.runtime.gpu_transfers import own_queue


def gather_model_statistics(
    observed: Mapping[str, tuple[MergedTensor, ...]],
    found: dict[str, ModelStatistics],
    context: Callable[[], Computing],
    workers: int,
    progress: Progress | None = None,
) -> None:
    """Gather the statistics of each recipe in turn: a later one may use the result of an earlier.

    Args:
        observed: for each key the tensors that the statistics are of.
        found: where the statistics go; the contexts look there.
        context: makes a worker's context.

    Raises:
        NonFiniteError, CheckpointError: an input is broken.
    """
    for key, tensors in observed.items():
        statistics = _empty(tensors)
        index = 0
        while index < statistics.passes:
            _run_pass(statistics, index, tensors, context, workers, progress)
            statistics.conclude(index)
            index += 1
        found[key] = statistics


def restored_model_statistics(
    observed: Mapping[str, tuple[MergedTensor, ...]], gathered: Mapping[str, Mapping[str, Any]]
) -> dict[str, ModelStatistics]:
    """The statistics of a plan that another process gathered, by their keys. Nothing is read."""
    restored = {}
    for key, tensors in observed.items():
        statistics = _empty(tensors)
        statistics.from_json(gathered[key])
        restored[key] = statistics
    return restored


def _empty(tensors: Sequence[MergedTensor]) -> ModelStatistics:
    statistics = method_named(tensors[0].method).model_statistics(
        [tensor.job(None) for tensor in tensors]
    )
    assert statistics is not None
    return statistics


def _run_pass(
    statistics: ModelStatistics,
    index: int,
    tensors: Sequence[MergedTensor],
    context: Callable[[], Computing],
    workers: int,
    progress: Progress | None,
) -> None:
    lock = threading.Lock()
    queue = iter(tensors)
    total = sum(tensor.numel for tensor in tensors)
    throttle = Throttle(progress, f"model statistics {index + 1}", total)
    given_up = threading.Event()

    def work() -> None:
        mine = context()
        with own_queue(mine.device):
            observe_tensors(mine)

    def observe_tensors(mine: Computing) -> None:
        while not given_up.is_set() and not mine.stop.is_set():
            with lock:
                tensor = next(queue, None)
            if tensor is None:
                return
            try:
                with explained_shortage(f"look at tensor {tensor.name}"):
                    _observe(statistics, index, tensor, mine, lock, given_up)
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


def _observe(
    statistics: ModelStatistics,
    index: int,
    tensor: MergedTensor,
    context: Computing,
    lock: threading.Lock,
    given_up: threading.Event,
) -> None:
    """Show one tensor to its observer, unless the pass is given up before its last block."""
    job = tensor.job(None)
    observer = statistics.observer(index, job)
    if observer is None:
        return
    try:
        for block in Computation(tensor, context).blocks():
            if given_up.is_set():
                return
            observer.observe(block)
    except Stopped:
        return
    with lock:
        statistics.reduce(index, job, observer)
