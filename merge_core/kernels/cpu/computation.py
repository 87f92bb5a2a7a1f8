"""A tensor computed by a fused kernel, where there is one for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Protocol

import numpy as np

from merge_core.jit.formats import STORED
from merge_core.kernels.cpu.program import Step, writing
from merge_core.kernels.cpu.registry import fused_kernel
from merge_core.kernels.cpu.stored_tensor import (
    FusedKernel,
    StoredBlock,
    StoredTensor,
    requiring_finite,
)
from merge_core.planning.merged_tensor import MergedTensor
from merge_core.tensors.block_reader import BlockReader

_INPUTS = ("BF16", "F16", "F32")
BLOCK = 1 << 17
"""Elements of a block: those of three bfloat16 inputs and the result fit a core's own cache."""


class Sink(Protocol):
    """Where the merged values go: to their places in a file."""

    @property
    def descriptor(self) -> int:
        """The file."""

    def position(self, start: int) -> int:
        """Where in the file the element at an index begins."""

    def write(self, start: int, data: memoryview) -> None:
        """Write values from an index on, or say why that cannot be."""

    def add_seconds(self, seconds: float) -> None:
        """Count time that was spent writing."""


class FusedComputation:
    """One tensor, or a part of it, being computed by one worker."""

    def __init__(self, tensor: MergedTensor, kernel: FusedKernel, inputs: StoredTensor) -> None:
        self._kernel = kernel
        self._inputs = inputs
        self._out = np.empty(min(inputs.block, inputs.numel), STORED[tensor.dtype])
        kernel.prepare(inputs)

    @classmethod
    def of(
        cls, tensor: MergedTensor, reader: BlockReader, block: int, check: Callable[[], None]
    ) -> FusedComputation | None:
        """The computation, or None when the tensor needs the method's own kernel.

        It does when an input is made as it is read, when dtypes differ, for post-steps, and for
        methods and settings that no fused kernel covers.
        """
        entries = [source.stored for source in tensor.sources if source.stored]
        alike = len({(entry.dtype, entry.numel) for entry in entries}) == 1
        if len(entries) < len(tensor.sources) or not alike or entries[0].dtype not in _INPUTS:
            return None
        if tensor.post or tensor.calibration or tensor.statistics_key or tensor.dtype not in STORED:
            return None
        kernel = fused_kernel(tensor.method, tensor.job(None))
        if kernel is None:
            return None
        base = entries.pop(0) if tensor.base is not None else None
        whole = kernel.step * max(1, min(block, BLOCK) // kernel.step)
        return cls(tensor, kernel, StoredTensor(reader, base, entries, whole, check))

    def write(self, sink: Sink, start: int, stop: int) -> None:
        """Merge the values from `start` to `stop`, and write them.

        Raises:
            Unusual: some are not finite; the method's own kernel will say what is wrong.
            Stopped: the merge is being given up.
            CheckpointError: an input cannot be read to its end.
            OutputError: the result cannot be written.
        """

        def steps(block: StoredBlock) -> Iterator[Step]:
            out = self._out[: block.count]
            if self._kernel.drops:
                yield requiring_finite(*block.inputs)
            yield from self._kernel.steps(block, out)
            yield requiring_finite(out)
            again = partial(sink.write, data=out.data.cast("B"))
            yield writing(sink.descriptor, out, sink.position(block.start), again)

        inside = {place for place in self._kernel.boundaries() if start < place < stop}
        ends = [start, *sorted(inside), stop]
        for first, last in pairwise(ends):
            for _ in self._inputs.walk(steps, first, last, wrote=sink.add_seconds):
                pass
