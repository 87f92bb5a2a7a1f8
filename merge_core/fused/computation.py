"""A tensor computed by a fused kernel, where there is one for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from merge_core.computed import ComputedTensor
from merge_core.fused.compiling import Array
from merge_core.fused.formats import STORED, all_finite
from merge_core.fused.registry import fused_kernel
from merge_core.fused.stored import FusedKernel, StoredBlock, StoredTensor, Unusual
from merge_core.reading import BlockReader
from merge_core.safetensors_header import TensorEntry

_INPUTS = ("BF16", "F16", "F32")
BLOCK = 1 << 17
"""Elements of a block: those of three bfloat16 inputs and the result fit a core's own cache."""


class MergedBlock(NamedTuple):
    """A run of the result: the flat index of its first element, and the bytes to be stored."""

    start: int
    data: memoryview


class FusedComputation:
    """One tensor, or a part of it, being computed by one worker."""

    def __init__(self, tensor: ComputedTensor, kernel: FusedKernel, inputs: StoredTensor) -> None:
        self._kernel = kernel
        self._inputs = inputs
        self._out = np.empty(min(inputs.block, inputs.numel), STORED[tensor.dtype])
        kernel.prepare(inputs)

    @classmethod
    def of(
        cls, tensor: ComputedTensor, reader: BlockReader, block: int, check: Callable[[], None]
    ) -> FusedComputation | None:
        """The computation, or None when the tensor needs the method's own kernel.

        It does when an input is made as it is read, when dtypes differ, for post-steps, and for
        methods and settings that no fused kernel covers.
        """
        entries = [source for source in tensor.sources if isinstance(source, TensorEntry)]
        alike = len({(entry.dtype, entry.numel) for entry in entries}) == 1
        if len(entries) < len(tensor.sources) or not alike or entries[0].dtype not in _INPUTS:
            return None
        if tensor.post or tensor.statistics or tensor.survey or tensor.dtype not in STORED:
            return None
        kernel = fused_kernel(tensor.method, tensor.job(None))
        if kernel is None:
            return None
        base = entries.pop(0) if tensor.base is not None else None
        whole = kernel.step * max(1, min(block, BLOCK) // kernel.step)
        return cls(tensor, kernel, StoredTensor(reader, base, entries, whole, check))

    def blocks(self, start: int, stop: int) -> Iterator[MergedBlock]:
        """The merged values from `start` to `stop`, each block valid until the next.

        Raises:
            Unusual: some are not finite; the method's own kernel will say what is wrong.
        """
        for block in self._inputs.blocks(start, stop):
            yield MergedBlock(block.start, self._rounded(block).data.cast("B"))

    def _rounded(self, block: StoredBlock) -> Array:
        if self._kernel.drops and not all_finite(*block.inputs):
            raise Unusual
        out = self._out[: block.count]
        self._kernel.combine(block, out)
        if not all_finite(out):
            raise Unusual
        return out
