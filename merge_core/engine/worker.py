"""What one worker does: compute a tensor, or a part of one, and write it to its place."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from merge_core.errors import CompatibilityError
from merge_core.methods.base import ModelStatistics
from merge_core.output.shard_writer import ShardWriter
from merge_core.planning.merged_tensor import COPY, Computation, Computing
from merge_core.planning.plan import Plan, PlannedTensor
from merge_core.progress import Stopped
from merge_core.runtime.devices import compute_device
from merge_core.runtime.gpu_memory import explained_shortage, give_back, is_shortage
from merge_core.runtime.gpu_transfers import to_host
from merge_core.runtime.lazy_torch import torch
from merge_core.runtime.timings import Timings
from merge_core.runtime.torch_threads import OneThreadEach
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.dtypes import ITEM_SIZES, name_of

PART = 1 << 24
"""Elements of a tensor that one worker takes at once, where the method allows parts."""


@dataclass(frozen=True, slots=True)
class Part:
    """A run of elements of one of the plan's tensors."""

    index: int
    start: int
    stop: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return self.stop - self.start


def parts_of(plan: Plan, indices: list[int], workers: int) -> list[Part]:
    """The work of some tensors, in file order; but first what would keep a worker at the end."""
    parts = []
    for index in indices:
        tensor = plan.tensors[index]
        numel = tensor.slot.numel
        length = PART if _is_divisible(tensor) else max(1, numel)
        parts += [
            Part(index, start, min(numel, start + length)) for start in range(0, numel, length)
        ] or [Part(index, 0, 0)]
    fair_share = max(PART, sum(part.numel for part in parts) // (2 * workers))
    return sorted(parts, key=lambda part: part.numel <= fair_share)


def _is_divisible(tensor: PlannedTensor) -> bool:
    if tensor.method == COPY:
        return True
    # What is made as it is read might be made again for every part.
    stored = all(source.stored for source in tensor.merged.sources)
    return stored and tensor.merged.granularity == "elementwise"


@dataclass(frozen=True)
class Work:
    """What all workers of a merge share.

    most_kept: bytes of its inputs that a worker may keep on a GPU.
    """

    plan: Plan
    staging: ShardWriter
    reader: BlockReader
    device: str
    on_cpu: bool
    most_kept: int
    block: int
    model_statistics: Mapping[str, ModelStatistics]
    torch_threads: OneThreadEach
    timings: Timings
    stop: threading.Event

    def general(self, most_kept: int) -> Computing:
        """A context for the methods' own kernels. Loads torch."""
        self.torch_threads.use_one()
        device = compute_device(self.device)
        return Computing(
            self.reader, device, self.block, self.model_statistics, self.stop, most_kept
        )

    def check(self) -> None:
        """Raises Stopped when the merge is being given up."""
        if self.stop.is_set():
            raise Stopped

    def do(self, part: Part) -> None:
        """Compute and write a part.

        Raises:
            Stopped: the merge is being given up.
            MergeflowError: as `run_plan` says.
        """
        tensor = self.plan.tensors[part.index]
        if tensor.method == COPY:
            self._copy(tensor, part)
        elif self.on_cpu:
            if not self._fused(tensor, part):
                self._general(tensor, part)
        else:
            self._on_gpu(tensor, part)

    def _fused(self, tensor: PlannedTensor, part: Part) -> bool:
        """Try a fused kernel; False when the tensor needs its method's own."""
        # LLVM's loader takes a tenth of a second to import, and not every merge can use it.
        from merge_core.kernels.cpu.computation import FusedComputation
        from merge_core.kernels.cpu.stored_tensor import Unusual

        try:
            computation = FusedComputation.of(tensor.merged, self.reader, self.block, self.check)
            if computation is None:
                return False
            computation.write(_Place(self, tensor), part.start, part.stop)
        except Unusual:
            return False
        return True

    def _on_gpu(self, tensor: PlannedTensor, part: Part) -> None:
        try:
            self._try_on_gpu(tensor, part, self.most_kept)
            return
        except RuntimeError as error:
            if not is_shortage(error):
                raise
        # Once more, with nothing kept. What was kept is free once the error is gone, and the
        # circles of feeds and their context with it.
        gc.collect()
        give_back()
        with explained_shortage(f"compute tensor {tensor.name}"):
            self._try_on_gpu(tensor, part, 0)

    def _try_on_gpu(self, tensor: PlannedTensor, part: Part, most_kept: int) -> None:
        if not self._by_kernel(tensor, part):
            self._general(tensor, part, most_kept)

    def _by_kernel(self, tensor: PlannedTensor, part: Part) -> bool:
        """Try a kernel of the GPU; False when the tensor needs its method's own."""
        from merge_core.kernels.gpu.computation import GpuComputation

        device = compute_device(self.device)
        computation = GpuComputation.of(tensor.merged, self.reader, device, self.block, self.check)
        if computation is None:
            return False
        return computation.write(_Place(self, tensor), part.start, part.stop)

    def _general(self, tensor: PlannedTensor, part: Part, most_kept: int = 0) -> None:
        computation = Computation(tensor.merged, self.general(most_kept))
        for start, count in computation.ranges(part.start, part.stop):
            values = to_host(computation.rounded(start, count))
            self._write(tensor, start, values.view(torch.uint8).numpy().data)

    def _copy(self, tensor: PlannedTensor, part: Part) -> None:
        entries = [entry for source in tensor.merged.inputs for entry in source.entries]
        for start in range(part.start, part.stop, self.block):
            self.check()
            count = min(self.block, part.stop - start)
            first = self.reader.read_bytes(entries[0], start, count)
            for entry in entries[1:]:
                same = entry.dtype == entries[0].dtype
                if not same or self.reader.read_bytes(entry, start, count) != first:
                    raise CompatibilityError(
                        f"tensor {tensor.name} holds {name_of(entry.dtype)} values that differ from"
                        f" those in {entries[0].path.parent}; such values cannot be averaged",
                        where=str(entry.path),
                        mend="merge checkpoints whose buffers agree, or keep the base's by"
                        f" `exclude: [{tensor.name}]` in the recipe",
                    )
            self._write(tensor, start, memoryview(first))

    def _write(self, tensor: PlannedTensor, start: int, data: Any) -> None:
        _Place(self, tensor).write(start, data)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor's values belong in the result."""

    work: Work
    tensor: PlannedTensor

    @property
    def descriptor(self) -> int:
        """The shard's file."""
        return self.work.staging.descriptor(self.tensor.slot.shard)

    def position(self, start: int) -> int:
        """Where in it the element at an index begins, in bytes."""
        slot = self.tensor.slot
        return slot.offset + start * ITEM_SIZES[slot.dtype]

    def write(self, start: int, data: memoryview) -> None:
        """Write values from an index on.

        Raises:
            OutputError: the disk is full or failing.
        """
        started = time.perf_counter()
        self.work.staging.write(self.tensor.slot.shard, data, self.position(start))
        self.add_seconds(time.perf_counter() - started)

    def add_seconds(self, seconds: float) -> None:
        """Count time that was spent writing."""
        self.work.timings.add("write", seconds)
