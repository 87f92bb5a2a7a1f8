"""The streaming engine: computes a plan's tensors block by block into a staging directory.

Peak memory is a constant: one set of blocks for each worker, whatever the size of model, shard or
tensor (but for methods that need a whole matrix). Workers take whole tensors in file order; torch
runs single-threaded inside each, so that the number of threads changes neither the order of any sum
nor any byte of the result.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

import torch

from merge_core.computed import COPY, Computation, Computing, Stopped
from merge_core.devices import compute_device
from merge_core.dtypes import ITEM_SIZES, name_of
from merge_core.errors import CompatibilityError
from merge_core.inputs import entries_of
from merge_core.methods.base import CHUNK, Survey
from merge_core.plan import Plan, PlannedTensor
from merge_core.progress import Progress, Throttle
from merge_core.reading import BlockReader
from merge_core.staging import Staging
from merge_core.surveying import run_surveys

CPU_BLOCK = 4 * CHUNK
"""Elements of a block on the CPU: a few of them in float64 fit the cache."""
CUDA_BLOCK = 256 * CHUNK
"""Elements of a block on a GPU: large enough to hide launches behind transfers."""


def run_plan(
    plan: Plan,
    staging: Staging,
    *,
    device: str = "auto",
    threads: int | None = None,
    block_elements: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Compute every tensor of a plan that the staging directory does not hold yet.

    Args:
        device: "auto" (a GPU when there is one), "cpu", "cuda" or "cuda:1".
        threads: workers; by default one for each available core, at most 8.
        block_elements: elements of a block, rounded up to a multiple of `CHUNK`.

    Raises:
        NonFiniteError: NaN or infinity in an input, or a result too large for the stored dtype.
        CompatibilityError: tensors that cannot be averaged differ between the models.
        CheckpointError: an input cannot be read to its end.
        OutputError: the result cannot be written.
    """
    target = compute_device(device)
    default = CPU_BLOCK if target.type == "cpu" else CUDA_BLOCK
    block = -(-(block_elements or default) // CHUNK) * CHUNK
    workers = threads or min(8, len(os.sched_getaffinity(0)))
    todo = [index for index in range(len(plan.tensors)) if index not in staging.finished]
    stop, lock = threading.Event(), threading.Lock()
    surveys: dict[str, Survey] = {}
    queue = iter(todo)

    with BlockReader() as reader, _single_threaded_torch(), ThreadPoolExecutor(workers) as pool:

        def context() -> Computing:
            return Computing(reader, target, block, surveys, stop)

        if todo:
            run_surveys(plan.surveys, surveys, context, workers, progress)
        throttle = Throttle(progress, "merge", sum(tensor.slot.nbytes for tensor in plan.tensors))
        throttle.advance(sum(plan.tensors[index].slot.nbytes for index in staging.finished))

        def work() -> None:
            mine = context()
            while not stop.is_set():
                with lock:
                    index = next(queue, None)
                if index is None:
                    return
                try:
                    _compute(plan.tensors[index], mine, staging)
                except Stopped:
                    return
                nbytes = plan.tensors[index].slot.nbytes
                staging.finish(index, nbytes)
                with lock:
                    throttle.advance(nbytes)

        futures = [pool.submit(work) for _ in range(workers)]
        try:
            _await(futures)
        finally:
            stop.set()


def _compute(tensor: PlannedTensor, context: Computing, staging: Staging) -> None:
    """All blocks of one tensor, written to their place."""
    if tensor.method == COPY:
        _copy(tensor, context, staging)
        return
    computation = Computation(tensor.computed, context)
    for start, count in computation.ranges():
        _write(tensor, staging, start, computation.rounded(start, count).cpu())


def _copy(tensor: PlannedTensor, context: Computing, staging: Staging) -> None:
    entries = [entry for source in tensor.computed.inputs for entry in entries_of(source)]
    for start in range(0, tensor.slot.numel, context.block):
        if context.stop.is_set():
            raise Stopped
        count = min(context.block, tensor.slot.numel - start)
        first = context.reader.read(entries[0], start, count)
        for entry in entries[1:]:
            other = context.reader.read(entry, start, count)
            if other.dtype != first.dtype or not torch.equal(first, other):
                raise CompatibilityError(
                    f"tensor {tensor.name} holds {name_of(entry.dtype)} values that differ from"
                    f" those in {entries[0].path.parent}; such values cannot be averaged",
                    where=str(entry.path),
                    mend="merge checkpoints whose buffers agree",
                )
        _write(tensor, staging, start, first)


def _write(tensor: PlannedTensor, staging: Staging, start: int, values: torch.Tensor) -> None:
    slot = tensor.slot
    data = values.contiguous().view(torch.uint8).numpy().data
    staging.write(slot.shard, data, slot.offset + start * ITEM_SIZES[slot.dtype])


@contextmanager
def _single_threaded_torch() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)


def _await(futures: Sequence[Future[None]]) -> None:
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()
