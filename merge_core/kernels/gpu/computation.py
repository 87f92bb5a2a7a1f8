"""A tensor computed by a Triton kernel, where there is one for its method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from merge_core.methods import method_named
from merge_core.methods.base import Block
from merge_core.planning.merged_tensor import MergedTensor
from merge_core.reductions import triton_lanes
from merge_core.reductions.constants import TINY_SUM
from merge_core.runtime.gpu_self_check import is_trusted, same_bits
from merge_core.runtime.gpu_transfers import fill, to_host
from merge_core.runtime.lazy_torch import torch
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.dtypes import torch_dtype
from merge_core.tensors.rounding import round_once
from merge_core.tensors.safetensors_header import TensorEntry

_INPUTS = ("BF16", "F16", "F32")
_OUTPUTS = (*_INPUTS, "F64")
_MOST_PLACES = 1 << 31
"""Kernels count what they read in 32 bits."""
_TRIED = (1, 4096, 5000)
"""Triton compiles for 1, for multiples of 16, and for other numbers."""


@dataclass(frozen=True)
class Formula:
    """What a kernel of `merge_core.kernels.gpu.triton_kernels` is told besides the values.

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
    def of(cls, tensor: MergedTensor) -> Formula | None:
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
        tensor: MergedTensor,
        formula: Formula,
        reader: BlockReader,
        device: torch.device,
        block: int,
        check: Callable[[], None],
    ) -> None:
        self._entries = [source.stored for source in tensor.sources if source.stored]
        self._stored, self._out = self._entries[0].dtype, tensor.dtype
        self._reader, self._device, self._block, self._check = reader, device, block, check
        self._combining = Combining(formula, self._stored, self._out, device)

    @classmethod
    def of(
        cls,
        tensor: MergedTensor,
        reader: BlockReader,
        device: torch.device,
        block: int,
        check: Callable[[], None],
    ) -> GpuComputation | None:
        """The computation, or None when the tensor needs the method's own expressions.

        It does when an input is made as it is read, when dtypes differ, for post-steps, and for
        methods that no Triton kernel covers, or none that gives the right bits on this device.
        """
        stored = {source.dtype if source.stored else None for source in tensor.sources}
        if len(stored) > 1 or not stored <= {*_INPUTS} or tensor.dtype not in _OUTPUTS:
            return None
        if tensor.post or tensor.calibration or tensor.statistics_key or not tensor.numel:
            return None
        if len(tensor.sources) * block >= _MOST_PLACES:
            return None
        formula = Formula.of(tensor)
        if formula is None:
            return None
        kernel = (formula.kernel, formula.models, formula.divided, *stored, tensor.dtype)
        if not is_trusted(device, kernel, lambda: agrees(device, tensor, formula)):
            return None
        return cls(tensor, formula, reader, device, block, check)

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
            self._fill(entry, start, row)
        return stored

    def _fill(self, entry: TensorEntry, start: int, row: torch.Tensor) -> None:
        fill(row, lambda index, view: self._reader.read_into(entry, start + index, view))


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
        from merge_core.kernels.gpu import triton_kernels

        count = stored.shape[1]
        merged = torch.empty(count, dtype=self._dtype, device=stored.device)
        broken = torch.zeros(1, dtype=torch.int32, device=stored.device)
        triton_lanes.launched(
            getattr(triton_kernels, self._formula.kernel)[triton_kernels.programs(count)],
            _patterns(stored),
            self._numbers,
            _patterns(merged),
            broken,
            count,
            models=self._formula.models,
            divided=self._formula.divided,
            stored_format=triton_kernels.FORMATS[self._codes[0]],
            out_format=triton_kernels.FORMATS[self._codes[1]],
            tile=triton_kernels.TILE,
        )
        return merged, broken


def _patterns(values: torch.Tensor) -> torch.Tensor:
    return values.view(torch.int16) if values.dtype == torch.bfloat16 else values


def agrees(device: torch.device, tensor: MergedTensor, formula: Formula) -> bool:
    """Whether a kernel gives the bits of the method's own expressions, on awkward values."""
    source = tensor.inputs[0]
    dtype = torch_dtype(tensor.dtype)
    for count in _TRIED:
        stored = awkward_values(formula.inputs, count, torch_dtype(source.dtype)).to(device)
        merged, broken = Combining(formula, source.dtype, tensor.dtype, device)(stored)
        values = stored.to(torch.float64)
        base = values[0] if tensor.base is not None else None
        block = Block(0, base, list(values if base is None else values[1:]))
        kernel = method_named(tensor.method).kernel(tensor.job(None))
        expected = round_once(kernel.combine(block), dtype)
        finite = torch.isfinite(expected)
        if bool(broken) == bool(finite.all()) or not same_bits(merged[finite], expected[finite]):
            return False
    return True


def awkward_values(inputs: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    """Finite values of all sizes, on the CPU, a row for each input: subnormal ones, zeros of both
    signs, neighbours of each other, none so large that a sum of a few overflows."""
    made = torch.Generator().manual_seed(1)
    size = torch.finfo(dtype)
    exponents = torch.randint(-40, 8, (count,), generator=made).to(torch.float64)
    common = torch.randn(count, generator=made, dtype=torch.float64) * torch.exp2(exponents)
    common[100:300] = torch.randn(count, generator=made, dtype=torch.float64)[100:300] * size.tiny
    common[300:400] = 0.0
    common[400:500] = -0.0
    change = torch.randn(inputs, count, generator=made, dtype=torch.float64)
    change[:, ::3] *= 0.01
    change[:, 1::3] = torch.randint(-2, 3, change[:, 1::3].shape, generator=made) * size.eps
    return (common * (1 + change * 0.1)).to(dtype)
