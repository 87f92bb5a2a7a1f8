"""A tensor as the result of a method: what it is made of, and how it is computed block by block.

An output tensor is one. So is a tensor of a recipe that another recipe uses by name: it is computed
while the other one reads it, rounded to the dtype it would be stored in, and never written.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from merge_core.errors import MergeflowError, NonFiniteError
from merge_core.methods import method_named
from merge_core.methods.base import Block, Granularity, Kernel, ModelStatistics, TensorJob
from merge_core.methods.parameter import Scalar
from merge_core.methods.post_steps import post_step_named
from merge_core.progress import Stopped
from merge_core.reductions.constants import CHUNK
from merge_core.runtime.lazy_torch import torch
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.dtypes import name_of, torch_dtype
from merge_core.tensors.inputs import Feed, FeedContext, TensorInput
from merge_core.tensors.rounding import round_once
from merge_core.tensors.safetensors_header import TensorEntry

COPY = "copy"
"""In place of a method: values that cannot be averaged (integers, flags) and must be equal."""


class MergedTensor(NamedTuple):
    """One tensor of a result before it has a place: everything its computation depends on.

    A tuple, since a plan may have 100 000 of them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    method: str
    """Name of the merge method, or `copy`."""
    base: TensorInput | None
    inputs: tuple[TensorInput, ...]
    models: tuple[int, ...]
    """For each input the position of its model among the recipe's combined models."""
    model_parameters: tuple[Mapping[str, Scalar], ...]
    parameters: Mapping[str, Scalar]
    random_keys: tuple[int, ...] = ()
    """One for each input; empty for methods that draw nothing."""
    post: tuple[tuple[str, Mapping[str, Scalar]], ...] = ()
    """Post-steps with their resolved parameters, in order."""
    calibration: tuple[TensorInput, ...] = ()
    """What calibration measured, one for each input, or nothing."""
    depth: float = 0.0
    in_layers: bool = False
    statistics_key: str | None = None
    """Key of the model statistics that its method needs."""
    copy_of: str = ""
    """Name of the tensor that it is a copy of: it is computed as that one is."""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def stored(self) -> None:
        """Nothing: its values are made."""

    @property
    def sources(self) -> tuple[TensorInput, ...]:
        """Base and inputs, in that order."""
        return (*((self.base,) if self.base is not None else ()), *self.inputs)

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """Every tensor on disk that it is made from, some perhaps twice."""
        return tuple(
            entry for source in (*self.sources, *self.calibration) for entry in source.entries
        )

    @property
    def granularity(self) -> Granularity:
        """In what portions its blocks come."""
        method = method_named(self.method).granularity
        if len(self.shape) == 2 and any(
            post_step_named(name).granularity == "matrix" for name, _ in self.post
        ):
            return "matrix"
        return method

    def job(self, model_statistics: ModelStatistics | None) -> TensorJob:
        """What its kernel may know."""
        return TensorJob(
            name=self.copy_of or self.name,
            numel=self.numel,
            model_parameters=self.model_parameters,
            parameters=self.parameters,
            random_keys=self.random_keys,
            shape=self.shape,
            has_base=self.base is not None,
            models=self.models,
            depth=self.depth,
            in_layers=self.in_layers,
            model_statistics=model_statistics,
        )

    def called(self, name: str) -> MergedTensor:
        """The same values under another name."""
        return self._replace(name=name, copy_of=self.copy_of or self.name)

    def open(self, context: FeedContext) -> Feed:
        """Its values as stored, for a computation that uses them."""
        return _Rounded(Computation(self, context))


class Computing(FeedContext):
    """A worker's context, with what was learned of the whole model and a way to stop."""

    def __init__(
        self,
        reader: BlockReader,
        device: torch.device,
        block: int,
        model_statistics: Mapping[str, ModelStatistics],
        stop: threading.Event,
        most_kept: int = 0,
    ) -> None:
        super().__init__(reader, device, block, most_kept)
        self.model_statistics = model_statistics
        self.stop = stop


class Computation:
    """One tensor being computed by one worker: the passes of its method, then any block of it."""

    def __init__(self, tensor: MergedTensor, context: FeedContext) -> None:
        assert isinstance(context, Computing)
        self._tensor = tensor
        self._context = context
        key = tensor.statistics_key
        self._job = tensor.job(context.model_statistics.get(key) if key else None)
        self._base = tensor.base.open(context) if tensor.base is not None else None
        self._inputs = [source.open(context) for source in tensor.inputs]
        self._calibration = [(source, source.open(context)) for source in tensor.calibration]
        self._post = [(post_step_named(name), settings) for name, settings in tensor.post]
        self._kernel: Kernel | None = None
        self.numel = tensor.numel
        self.step = self._step()

    def ranges(self, first: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
        """Elements in blocks of about the worker's size: multiples of `step`, but for the last.

        Args:
            first: where to begin, a multiple of `step`; by default all elements come.

        Raises:
            Stopped: between two blocks, when the merge is being given up.
        """
        end = self._tensor.numel if stop is None else stop
        length = self.step * max(1, self._context.block // self.step)
        for start in range(first, end, length):
            if self._context.stop.is_set():
                raise Stopped
            yield start, min(length, end - start)

    def blocks(self) -> Iterator[Block]:
        """All blocks of the inputs, in order."""
        for start, count in self.ranges():
            yield self._block(start, count)

    def exact(self, start: int, count: int) -> torch.Tensor:
        """The result before rounding: float64. `start` must be a multiple of `step`."""
        kernel = self._prepared()
        block = self._block(start, count)
        try:
            values = kernel.combine(block)
            for step, settings in self._post:
                values = step.apply(values, block, self._job, settings)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise MergeflowError(
                f"a decomposition of tensor {self._tensor.name} did not converge: {error}",
                mend="leave the tensor out by exclude, or merge it by another method",
            ) from error
        return values

    def rounded(self, start: int, count: int) -> torch.Tensor:
        """The result in its dtype. `start` must be a multiple of `step`.

        Raises:
            NonFiniteError: a value is too large for the dtype.
        """
        exact = self.exact(start, count)
        dtype = self._tensor.dtype
        rounded = round_once(exact, torch_dtype(dtype))
        suspicious = not bool(torch.isfinite(rounded.sum(dtype=torch.float64)))
        if suspicious and not bool(torch.isfinite(rounded).all()):
            largest = float(exact.abs().max())
            wider = ", or out_dtype: bfloat16 or float32" * _bfloat16_holds(largest)
            raise NonFiniteError(
                f"the merged tensor {self._tensor.name} has values up to {largest:.3g}, which"
                f" {name_of(dtype)} cannot hold",
                mend=f"use smaller scales{wider}",
            )
        return rounded

    def _prepared(self) -> Kernel:
        if self._kernel is None:
            kernel = method_named(self._tensor.method).kernel(self._job)
            self._context.reads_again |= kernel.passes > 0
            for index in range(kernel.passes):
                for block in self.blocks():
                    kernel.observe(index, block)
                kernel.conclude(index)
            self._kernel = kernel
        return self._kernel

    def _block(self, start: int, count: int) -> Block:
        base = self._base.read(start, count) if self._base else None
        models = [feed.read(start, count) for feed in self._inputs]
        calibration = [
            feed.read(start, count)
            if source.shape == self._tensor.shape
            else feed.read(0, source.numel)
            for source, feed in self._calibration
        ]
        self._context.settle()
        return Block(start, base, models, calibration)

    def _step(self) -> int:
        granularity = self._tensor.granularity
        if granularity == "matrix":
            return max(1, self._tensor.numel)
        return self._job.row_step if granularity == "rowwise" else CHUNK


def _bfloat16_holds(size: float) -> bool:
    return bool(torch.isfinite(torch.tensor(size, dtype=torch.float64).to(torch.bfloat16)))


class _Rounded:
    """A merged tensor as others read it: any block, cut from blocks that begin where they may."""

    def __init__(self, computation: Computation) -> None:
        self._computation = computation
        self._whole: torch.Tensor | None = None

    def read(self, start: int, count: int) -> torch.Tensor:
        step = self._computation.step
        numel = self._computation.numel
        if step >= numel:
            if self._whole is None:
                self._whole = self._computation.rounded(0, numel)
            return self._whole[start : start + count].to(torch.float64)
        first = start - start % step
        last = min(numel, -(-(start + count) // step) * step)
        values = self._computation.rounded(first, last - first)
        return values[start - first : start - first + count].to(torch.float64)
