"""A tensor computed by a Triton kernel, where there is one for its method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from merge_core.computed import ComputedTensor
from merge_core.dtypes import torch_dtype
from merge_core.gpu.transfers import host_memory, to_host
from merge_core.lazy_torch import torch
from merge_core.methods.base import TINY_SUM
from merge_core.reading import BlockReader
from merge_core.safetensors_header import TensorEntry

_INPUTS = ("BF16", "F16", "F32")
_OUTPUTS = (*_INPUTS, "F64")


@dataclass(frozen=True)
class Formula:
    """What a kernel of `merge_core.gpu.kernels` is told besides the values.

    kernel: its name.
    numbers: as it expects them.
    divided: whether it divides by one of them.
    """

    kernel: str
    models: int
    numbers: tuple[float, ...]
    divided: bool

    @property
    def inputs(self) -> int:
        """How many tensors it reads."""
        return self.models + (self.kernel == "task_vector_sum")

    @classmethod
    def of(cls, tensor: ComputedTensor) -> Formula | None:
        """That of a tensor's method with its settings, if there is one."""
        job = tensor.job(None)
        models = len(tensor.inputs)
        if tensor.method == "linear":
            weights = job.numbers("weight")
            divisor = sum(weights) if job.parameters["normalize"] else 1.0
            return cls("weighted_sum", models, (*weights, divisor), divisor != 1.0)
        if tensor.method == "passthrough":
            return cls("weighted_sum", models, (*job.numbers("scale"), 1.0), False)
        if tensor.method == "task_arithmetic":
            weights = job.numbers("weight")
            divisor = sum(weights)
            divided = bool(job.parameters["normalize"]) and abs(divisor) >= TINY_SUM
            scale = float(job.parameters["lambda"])
            numbers = (*weights, divisor if divided else 1.0, scale)
            return cls("task_vector_sum", models, numbers, divided)
        return None


class Sink(Protocol):
    """Where the merged values go: to their places in a file."""

    def write(self, start: int, data: memoryview) -> None:
        """Write values from an index on, or say why that cannot be."""


class GpuComputation:
    """One tensor, or a part of it, being computed by one worker, in the queue of its thread.

    Args:
        device: with kernels that are interpreted, and only then, the CPU.
        block: elements of a block.
        check: called before each block; raises when the merge is being given up.
    """

    def __init__(
        self,
        tensor: ComputedTensor,
        formula: Formula,
        reader: BlockReader,
        device: torch.device,
        block: int,
        check: Callable[[], None],
    ) -> None:
        self._entries = [source for source in tensor.sources if isinstance(source, TensorEntry)]
        self._stored, self._out = self._entries[0].dtype, tensor.dtype
        self._reader, self._device, self._block, self._check = reader, device, block, check
        self._combining = Combining(formula, self._stored, self._out, device)

    @classmethod
    def of(
        cls,
        tensor: ComputedTensor,
        reader: BlockReader,
        device: torch.device,
        block: int,
        check: Callable[[], None],
    ) -> GpuComputation | None:
        """The computation, or None when the tensor needs the method's own expressions.

        It does when an input is made as it is read, when dtypes differ, for post-steps, and for
        methods that no Triton kernel covers.
        """
        stored = {
            source.dtype if isinstance(source, TensorEntry) else None for source in tensor.sources
        }
        if len(stored) > 1 or not stored <= {*_INPUTS} or tensor.dtype not in _OUTPUTS:
            return None
        if tensor.post or tensor.statistics or tensor.survey or not tensor.numel:
            return None
        formula = Formula.of(tensor)
        return cls(tensor, formula, reader, device, block, check) if formula else None

    def write(self, sink: Sink, start: int, stop: int) -> bool:
        """Merge the values from `start` to `stop`, and write them, but for what is not finite.

        Returns:
            Whether all were finite; if not, the method's own expressions will say what is wrong.

        Raises:
            Stopped: the merge is being given up.
            CheckpointError: an input cannot be read to its end.
            OutputError: the result cannot be written.
        """
        for first in range(start, stop, self._block):
            self._check()
            count = min(self._block, stop - first)
            merged, broken = self._combining(self._on_device(first, count))
            values = to_host(merged)
            if bool(broken):
                return False
            sink.write(first, values.view(torch.uint8).numpy().data)
        return True

    def _on_device(self, start: int, count: int) -> torch.Tensor:
        """Stored patterns of the inputs, one row each: each is copied while the next is read."""
        dtype = torch_dtype(self._stored)
        stored = torch.empty(len(self._entries), count, dtype=dtype, device=self._device)
        for entry, row in zip(self._entries, stored, strict=True):
            room = host_memory(count, dtype, self._device)
            self._reader.read_into(entry, start, room.view(torch.uint8).numpy().data)
            row.copy_(room, non_blocking=True)
        return stored


class Combining:
    """A kernel with its numbers on the device.

    Args:
        stored: safetensors code of what it reads.
        out: that of what it writes.
    """

    def __init__(self, formula: Formula, stored: str, out: str, device: torch.device) -> None:
        self._formula, self._dtype = formula, torch_dtype(out)
        self._numbers = torch.tensor(formula.numbers, dtype=torch.float64, device=device)
        self._codes = stored, out

    def __call__(self, stored: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The merged values of rows of stored ones, and 1 if any of them is not finite (int32).

        Args:
            stored: (inputs, count), contiguous, on the device.
        """
        # Triton comes with a torch for GPUs, and is no dependency.
        from merge_core.gpu import kernels

        count = stored.shape[1]
        merged = torch.empty(count, dtype=self._dtype, device=stored.device)
        broken = torch.zeros(1, dtype=torch.int32, device=stored.device)
        launch: Any = getattr(kernels, self._formula.kernel)[kernels.programs(count)]
        launch(
            _patterns(stored),
            self._numbers,
            _patterns(merged),
            broken,
            count,
            count,
            models=self._formula.models,
            divided=self._formula.divided,
            stored_format=kernels.FORMATS[self._codes[0]],
            out_format=kernels.FORMATS[self._codes[1]],
            tile=kernels.TILE,
            **kernels.EXACT,
        )
        return merged, broken


def _patterns(values: torch.Tensor) -> torch.Tensor:
    return values.view(torch.int16) if values.dtype == torch.bfloat16 else values
