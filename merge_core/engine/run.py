"""The streaming engine: computes a plan's tensors block by block into a staging directory.

Peak memory is a constant: one set of blocks for each worker, whatever the size of model, shard or
tensor (but for methods that need a whole matrix). Workers take tensors in file order, large ones in
parts where the method allows it; torch runs single-threaded inside each, so that the number of
threads changes neither the order of any sum nor any byte of the result.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext, suppress
from typing import Protocol

from merge_core.engine.model_statistics import gather_model_statistics
from merge_core.engine.worker import Work, parts_of
from merge_core.methods.base import ModelStatistics
from merge_core.output.shard_writer import ShardWriter
from merge_core.planning.merged_tensor import Computing
from merge_core.planning.plan import Plan
from merge_core.progress import Progress, Stopped, Throttle
from merge_core.recipes.recipe import Recipe
from merge_core.reductions.constants import CHUNK
from merge_core.runtime.compute import Compute
from merge_core.runtime.devices import compute_device, is_cpu
from merge_core.runtime.gpu_memory import explained_shortage, give_back, spare_memory
from merge_core.runtime.gpu_transfers import LEAST_WORKERS, load_decompositions, own_queue
from merge_core.runtime.lazy_torch import torch
from merge_core.runtime.processors import processors
from merge_core.runtime.timings import Timings
from merge_core.runtime.torch_threads import OneThreadEach
from merge_core.tensors.block_reader import BlockReader

CPU_BLOCK = 4 * CHUNK
"""Elements of a block on the CPU: a few of them in float64 fit the cache."""
GPU_BLOCK = 64 * CHUNK
"""Elements of a block on a GPU: copying 8 MB takes longer than launching what computes them."""
_NOT_COMPUTING = ("read", "write", "wait")


class Follower(Protocol):
    """Follows the workers through the files that they write. Any thread may call it."""

    def written(self, index: int, start: int, stop: int) -> None:
        """Elements `start` to `stop` of the plan's tensor `index` are in place."""

    def pace(self, workers: int, is_over: Callable[[], bool]) -> None:
        """Return when one of so many workers on processors shall take more work, or nothing is
        left to take."""


def run_plan(
    plan: Plan,
    staging: ShardWriter,
    compute: Compute = Compute(),
    *,
    progress: Progress | None = None,
    only: Collection[int] | None = None,
    model_statistics: Mapping[str, ModelStatistics] | None = None,
    timings: Timings | None = None,
    follower: Follower | None = None,
) -> None:
    """Compute every tensor of a plan that the staging directory does not hold yet.

    Args:
        only: indices of the tensors to compute; by default all.
        model_statistics: those of `model_statistics_of`; by default they are gathered first.
        timings: where to add what was spent.
        follower: told what is written, and asked how fast to go on.

    Raises:
        NonFiniteError: NaN or infinity in an input, or a result too large for the stored dtype.
        CompatibilityError: tensors that cannot be averaged differ between the models.
        CheckpointError: an input cannot be read to its end.
        OutputError: the result cannot be written.
    """
    device, block = compute.device, _block_elements(compute)
    wanted = range(len(plan.tensors)) if only is None else sorted(only)
    todo = [index for index in wanted if index not in staging.finished]
    if todo and plan.observed and model_statistics is None:
        model_statistics = model_statistics_of(plan, compute, progress)
    throttle = Throttle(progress, "merge", _nbytes(plan, wanted))
    throttle.advance(_nbytes(plan, set(wanted) - set(todo)))
    timings, on_cpu = timings or Timings(), is_cpu(device)  # asked once: it looks for drivers
    workers = compute.threads or _default_workers(on_cpu)
    parts = parts_of(plan, todo, workers)
    left = Counter(part.index for part in parts)
    queue, stop, lock = deque(parts), threading.Event(), threading.Lock()
    with BlockReader(timings) as reader, OneThreadEach() as torch_threads:
        shared = Work(
            plan=plan,
            staging=staging,
            reader=reader,
            device=device,
            on_cpu=on_cpu,
            most_kept=0 if on_cpu else spare_memory(compute_device(device)) // workers,
            block=block,
            model_statistics=model_statistics or {},
            torch_threads=torch_threads,
            timings=timings,
            stop=stop,
        )

        def is_over() -> bool:
            return stop.is_set() or not queue

        def work() -> None:
            with nullcontext() if on_cpu else own_queue(compute_device(device)):
                take_parts()

        def take_parts() -> None:
            while True:
                if follower:
                    follower.pace(workers if on_cpu else 1, is_over)
                with lock:
                    if is_over():
                        return
                    part = queue.popleft()
                try:
                    shared.do(part)
                except Stopped:
                    return
                if follower:
                    follower.written(part.index, part.start, part.stop)
                with lock:
                    left[part.index] -= 1
                    is_last = left[part.index] == 0
                if is_last:
                    nbytes = plan.tensors[part.index].slot.nbytes
                    staging.finish(part.index, nbytes)
                    with lock:
                        throttle.advance(nbytes)

        with nullcontext() if on_cpu else _ready(compute_device(device), plan.recipe):
            _run(work, workers, stop, timings)


def model_statistics_of(
    plan: Plan, compute: Compute = Compute(), progress: Progress | None = None
) -> dict[str, ModelStatistics]:
    """What the plan's methods must learn of the whole model first; nothing for most plans.

    Arguments and errors as for `run_plan`.
    """
    if not plan.observed:
        return {}
    target, block = compute_device(compute.device), _block_elements(compute)
    found: dict[str, ModelStatistics] = {}
    with BlockReader() as reader, OneThreadEach() as torch_threads:

        def context() -> Computing:
            torch_threads.use_one()
            return Computing(reader, target, block, found, threading.Event())

        workers = compute.threads or _default_workers(target.type == "cpu")
        with _ready(target, plan.recipe):
            gather_model_statistics(plan.observed, found, context, workers, progress)
    return found


def _block_elements(compute: Compute) -> int:
    default = CPU_BLOCK if is_cpu(compute.device) else GPU_BLOCK
    return -(-(compute.block_elements or default) // CHUNK) * CHUNK


def _default_workers(on_cpu: bool) -> int:
    return max(1 if on_cpu else LEAST_WORKERS, min(8, processors()))


@contextmanager
def _ready(device: torch.device, recipe: Recipe) -> Iterator[None]:
    """Make a GPU ready for workers, and what they held of it free again for other processes."""
    if device.type == "cpu":
        yield
        return
    if any(it.method.granularity == "matrix" or it.post for it in (recipe, *recipe.recipes)):
        with explained_shortage("decompose matrices"):
            load_decompositions(device)
    try:
        yield
    finally:
        with suppress(RuntimeError):  # of a device that failed, which has been told of by then
            give_back()


def _nbytes(plan: Plan, indices: Collection[int]) -> int:
    return sum(plan.tensors[index].slot.nbytes for index in indices)


def _run(work: Callable[[], None], workers: int, stop: threading.Event, timings: Timings) -> None:
    """Let workers do their work to the end, or until one of them fails."""
    ends: list[float] = []
    # Not futures: an interrupt may come before there is one of a worker that has begun.
    begun: list[threading.Event] = []

    def timed() -> None:
        over = threading.Event()
        begun.append(over)
        started = time.perf_counter()
        try:
            work()
        finally:
            ends.append(time.perf_counter())
            timings.add("compute", ends[-1] - started)
            over.set()

    others_before = sum(map(timings.seconds, _NOT_COMPUTING))
    with ThreadPoolExecutor(workers) as pool:
        futures: list[Future[None]] = []
        try:
            for _ in range(workers):
                futures.append(pool.submit(timed))
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        finally:
            stop.set()
            _wait_for_all(begun)
    timings.add("compute", others_before - sum(map(timings.seconds, _NOT_COMPUTING)))
    timings.add("wait", sum(max(ends) - end for end in ends))


def _wait_for_all(begun: Sequence[threading.Event]) -> None:
    """Wait even when interrupted, again: the files that workers read and write are closed next, and
    what is opened then may get their numbers."""
    interrupted: BaseException | None = None
    while not all(over.is_set() for over in begun):
        try:
            for over in begun:
                over.wait()
        except BaseException as error:
            interrupted = error
    if interrupted:
        raise interrupted
