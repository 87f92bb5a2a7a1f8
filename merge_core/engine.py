"""The streaming engine: computes a plan's tensors block by block into a staging directory.

Peak memory is a constant: one set of blocks for each worker, whatever the size of model, shard or
tensor. Workers take whole tensors in file order; torch runs single-threaded inside each, so that
the number of threads changes neither the order of any sum nor any byte of the result.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

import torch

from merge_core.devices import compute_device
from merge_core.dtypes import ITEM_SIZES, TORCH_DTYPES, name_of
from merge_core.errors import CompatibilityError, NonFiniteError
from merge_core.methods import method_named
from merge_core.methods.base import CHUNK, Block, Kernel, TensorJob
from merge_core.plan import COPY, Plan, PlannedTensor
from merge_core.progress import Progress, Throttle
from merge_core.reading import BlockReader
from merge_core.safetensors_header import TensorEntry
from merge_core.staging import Staging

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
    throttle = Throttle(progress, "merge", sum(tensor.slot.nbytes for tensor in plan.tensors))
    throttle.advance(sum(plan.tensors[index].slot.nbytes for index in staging.finished))
    stop, lock = threading.Event(), threading.Lock()
    queue = iter(todo)

    def work(reader: BlockReader) -> None:
        worker = _Worker(plan, staging, reader, target, block)
        while not stop.is_set():
            with lock:
                index = next(queue, None)
            if index is None:
                return
            worker.compute(plan.tensors[index], stop)
            nbytes = plan.tensors[index].slot.nbytes
            if not stop.is_set():
                staging.finish(index, nbytes)
                with lock:
                    throttle.advance(nbytes)

    with BlockReader() as reader, _single_threaded_torch(), ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, reader) for _ in range(workers)]
        try:
            _await(futures)
        finally:
            stop.set()


class _Worker:
    """One thread's view of the merge: its buffers and the device it computes on."""

    def __init__(
        self, plan: Plan, staging: Staging, reader: BlockReader, device: torch.device, block: int
    ) -> None:
        self._plan = plan
        self._staging = staging
        self._reader = reader
        self._device = device
        self._block = block
        self._buffers: list[bytearray] = []

    def compute(self, tensor: PlannedTensor, stop: threading.Event) -> None:
        """All blocks of one tensor: the passes of its method, then the result."""
        if tensor.method == COPY:
            self._copy(tensor, stop)
            return
        job = TensorJob(
            name=tensor.name,
            numel=tensor.slot.numel,
            model_parameters=tensor.model_parameters,
            parameters=tensor.parameters,
            random_keys=self._plan.random_keys(tensor),
            shape=tensor.slot.shape,
            has_base=tensor.base is not None,
        )
        method = method_named(tensor.method)
        kernel = method.kernel(job)
        step = job.row_step if method.granularity == "rowwise" else CHUNK
        for index in range(kernel.passes):
            for block in self._blocks(tensor, step, stop, check=index == 0):
                kernel.observe(index, block)
            kernel.conclude(index)
        for block in self._blocks(tensor, step, stop, check=kernel.passes == 0):
            self._write(tensor, block.start, self._rounded(tensor, kernel, block))

    def _blocks(
        self, tensor: PlannedTensor, step: int, stop: threading.Event, *, check: bool
    ) -> Iterator[Block]:
        for start, count in self._ranges(tensor, step, stop):
            base = self._load(0, tensor.base, start, count) if tensor.base else None
            models = [
                self._load(slot, entry, start, count)
                for slot, entry in enumerate(tensor.inputs, start=1)
            ]
            if check:
                for entry, values in zip(_entries(tensor), _values(base, models), strict=True):
                    _check_finite(entry, values)
            yield Block(start, base, models)

    def _ranges(
        self, tensor: PlannedTensor, step: int, stop: threading.Event
    ) -> Iterator[tuple[int, int]]:
        """Blocks of about the worker's size: multiples of `step` elements, but for the last."""
        length = step * max(1, self._block // step)
        for start in range(0, tensor.slot.numel, length):
            if stop.is_set():
                return
            yield start, min(length, tensor.slot.numel - start)

    def _load(self, slot: int, entry: TensorEntry, start: int, count: int) -> torch.Tensor:
        stored = self._reader.read(entry, start, count, self._buffer(slot, entry, count))
        return stored.to(self._device).to(torch.float64)

    def _rounded(self, tensor: PlannedTensor, kernel: Kernel, block: Block) -> torch.Tensor:
        exact = kernel.combine(block)
        rounded = exact.to(TORCH_DTYPES[tensor.slot.dtype])
        suspicious = not bool(torch.isfinite(rounded.sum(dtype=torch.float64)))
        if suspicious and not bool(torch.isfinite(rounded).all()):
            raise NonFiniteError(
                f"the merged tensor {tensor.name} has values up to {float(exact.abs().max()):.3g},"
                f" which {name_of(tensor.slot.dtype)} cannot hold",
                mend="use smaller scales, or out_dtype: bfloat16 or float32",
            )
        return rounded.cpu()

    def _copy(self, tensor: PlannedTensor, stop: threading.Event) -> None:
        entries = _entries(tensor)
        for start, count in self._ranges(tensor, CHUNK, stop):
            first = self._reader.read(entries[0], start, count, self._buffer(0, entries[0], count))
            for entry in entries[1:]:
                other = self._reader.read(entry, start, count, self._buffer(1, entry, count))
                if other.dtype != first.dtype or not torch.equal(first, other):
                    raise CompatibilityError(
                        f"tensor {tensor.name} holds {name_of(entry.dtype)} values that differ from"
                        f" those in {entries[0].path.parent}; such values cannot be averaged",
                        where=str(entry.path),
                        mend="merge checkpoints whose buffers agree",
                    )
            self._write(tensor, start, first)

    def _write(self, tensor: PlannedTensor, start: int, values: torch.Tensor) -> None:
        slot = tensor.slot
        data = values.contiguous().view(torch.uint8).numpy().data
        self._staging.write(slot.shard, data, slot.offset + start * ITEM_SIZES[slot.dtype])

    def _buffer(self, slot: int, entry: TensorEntry, count: int) -> bytearray:
        size = max(count, self._block) * ITEM_SIZES[entry.dtype]
        while len(self._buffers) <= slot:
            self._buffers.append(bytearray())
        if len(self._buffers[slot]) < size:
            self._buffers[slot] = bytearray(size)
        return self._buffers[slot]


def _entries(tensor: PlannedTensor) -> list[TensorEntry]:
    return [*((tensor.base,) if tensor.base else ()), *tensor.inputs]


def _values(base: torch.Tensor | None, models: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [*((base,) if base is not None else ()), *models]


def _check_finite(entry: TensorEntry, values: torch.Tensor) -> None:
    """One cheap sum decides almost always; only a suspicious block is looked at closely."""
    if bool(torch.isfinite(values.sum())):
        return
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise NonFiniteError(
            f"tensor {entry.name} holds NaN or infinity ({bad} values in one block)",
            where=str(entry.path),
            mend="this checkpoint is broken: use an earlier one of the same training run",
        )


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
