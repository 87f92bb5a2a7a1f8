"""Tensors as stored patterns: read block by block into buffers that are used again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from merge_core.jit.calling_convention import Array
from merge_core.jit.formats import STORED, all_finite
from merge_core.jit.kernel import StridedArgument
from merge_core.kernels.cpu.program import Program, Step, calling, reading
from merge_core.reductions.constants import CHUNK
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.dtypes import ITEM_SIZES
from merge_core.tensors.safetensors_header import TensorEntry

_RUN = 1 << 25
"""Bytes that are read between two looks at whether the merge is being given up."""


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A run of elements of one tensor; `start` is the flat index of the first.

    The arrays hold stored patterns (`formats.STORED`) and are valid until the next block is read,
    into the same arrays.
    """

    start: int
    base: Array | None
    models: tuple[Array, ...]

    @property
    def count(self) -> int:
        """Number of elements."""
        return int(self.models[0].size)

    @property
    def inputs(self) -> tuple[Array, ...]:
        """The base, if there is one, and the models."""
        return self.models if self.base is None else (self.base, *self.models)

    @property
    def strided_start(self) -> StridedArgument:
        """`start` as a step's argument: that of the next block, when it comes to it."""
        return StridedArgument(self.start, self.count)


class StoredTensor:
    """The inputs of one output tensor, all of the same dtype, as one worker reads them.

    Args:
        block: elements of a usual block.
        check: called before each block that is read alone, and now and then while walking; raises
            when the merge is being given up.
    """

    def __init__(
        self,
        reader: BlockReader,
        base: TensorEntry | None,
        models: Sequence[TensorEntry],
        block: int,
        check: Callable[[], None],
    ) -> None:
        self._reader = reader
        self._entries = [*([base] if base else []), *models]
        self._has_base = base is not None
        self._dtype = models[0].dtype
        self.block = block
        self._check = check
        self.numel = models[0].numel
        self._buffers = self._room(min(block, self.numel))
        self._views = [buffer.data.cast("B") for buffer in self._buffers]

    def read(self, start: int, count: int) -> StoredBlock:
        """Some elements of every input; `count` is at most the usual block."""
        self._check()
        size = count * ITEM_SIZES[self._dtype]
        for entry, view in zip(self._entries, self._views, strict=True):
            self._reader.read_into(entry, start, view[:size] if size < len(view) else view)
        buffers = self._buffers
        if count < buffers[0].size:
            buffers = [buffer[:count] for buffer in buffers]
        return self._block(start, buffers)

    def blocks(self, start: int = 0) -> Iterator[StoredBlock]:
        """All elements from `start` on, in order."""
        for first in range(start, self.numel, self.block):
            yield self.read(first, min(self.block, self.numel - first))

    def walk(
        self,
        steps: Callable[[StoredBlock], Iterable[Step]],
        start: int = 0,
        stop: int | None = None,
        pauses: int = 0,
        wrote: Callable[[float], None] | None = None,
    ) -> Iterator[int]:
        """Read all elements from `start` to `stop` in blocks, and take some steps with each.

        Args:
            steps: asked once for all whole blocks, with the first of them, which is not read yet,
                and once for what there is before and after them.
            pauses: how often to stop, at least, if there are as many blocks.
            wrote: told the seconds that the steps took to write.

        Yields:
            The index of the next element at each stop, before it is read.
        """
        end = self.numel if stop is None else stop
        first = min(end, -(-start // self.block) * self.block)
        whole = (end - first) // self.block
        rest = first + whole * self.block
        size = self.block * ITEM_SIZES[self._dtype] * len(self._entries)
        run = max(1, min(_RUN // size, whole // max(1, pauses)))
        programs = (
            (start, first - start, 1),
            (first, self.block, whole),
            (rest, end - rest, 1),
        )
        for place, count, blocks in programs:
            if count and blocks:
                yield from self._run(steps, place, count, blocks, run, wrote)

    def _run(
        self,
        steps: Callable[[StoredBlock], Iterable[Step]],
        start: int,
        count: int,
        blocks: int,
        run: int,
        wrote: Callable[[float], None] | None,
    ) -> Iterator[int]:
        buffers = [buffer[:count] for buffer in self._buffers]
        program = Program(
            [*self._reads(start, buffers), *steps(self._block(start, buffers))], start, count
        )
        try:
            for first in range(0, blocks, run):
                self._check()
                yield start + first * count
                program.run(first, min(first + run, blocks))
        finally:
            self._reader.add_seconds(program.seconds_reading)
            if wrote:
                wrote(program.seconds_writing)

    def _reads(self, start: int, buffers: Sequence[Array]) -> Iterator[Step]:
        offset = start * ITEM_SIZES[self._dtype]
        for entry, buffer in zip(self._entries, buffers, strict=True):
            # What the loop cannot read is read again, which says why, or reads on.
            again = partial(self._reader.read_into, entry, view=buffer.data.cast("B"))
            yield reading(self._reader.descriptor(entry.path), buffer, entry.offset + offset, again)

    def sample(self, starts: Sequence[int], count: int) -> StoredBlock:
        """Runs of `count` elements, put together as if they were one block at 0."""
        self._check()
        buffers = self._room(len(starts) * count)
        size = count * ITEM_SIZES[self._dtype]
        for entry, buffer in zip(self._entries, buffers, strict=True):
            view = buffer.data.cast("B")
            for place, start in enumerate(starts):
                self._reader.read_into(entry, start, view[place * size :][:size])
        return self._block(0, buffers)

    def _room(self, count: int) -> list[Array]:
        return [np.empty(count, STORED[self._dtype]) for _ in self._entries]

    def _block(self, start: int, arrays: Sequence[Array]) -> StoredBlock:
        if self._has_base:
            return StoredBlock(start, arrays[0], tuple(arrays[1:]))
        return StoredBlock(start, None, tuple(arrays))


class FusedKernel(ABC):
    """One method on one tensor, over stored patterns. Gives what the method's own kernel gives."""

    step = CHUNK
    """Whole blocks must begin at multiples of it."""
    drops = False
    """Whether an entry may be left out of the result, and a NaN with it, so that no trace of it is
    left in what is written. Not where `prepare` has seen that every entry is finite."""

    def prepare(self, tensor: StoredTensor) -> None:
        """Read the tensor as often as needed before any block of it can be combined."""

    def boundaries(self) -> Sequence[int]:
        """The indices from which on the steps are others than before, in any order."""
        return ()

    @abstractmethod
    def steps(self, block: StoredBlock, out: Array) -> Iterable[Step]:
        """What writes the merged values of a block into `out`, each rounded once.

        It does so for the blocks that follow, too, up to the next boundary.
        """


class Unusual(Exception):  # noqa: N818 - not an error: the general kernels take over
    """This tensor is not one for fused kernels.

    Parts of it may have been written: the method's own kernel writes the same bytes, or fails.
    """


def requiring_finite(*arrays: Array) -> Step:
    """What raises Unusual where runs of stored values, all of one dtype, hold NaN or infinity."""
    return calling(*all_finite(*arrays), on_failure=unusual)


def unusual(start: int) -> None:
    """What a step does otherwise, where only ordinary values will do.

    Raises:
        Unusual: always.
    """
    raise Unusual
