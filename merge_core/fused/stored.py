"""Tensors as stored patterns: read block by block into buffers that are used again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from merge_core.dtypes import ITEM_SIZES
from merge_core.fused.compiling import Array
from merge_core.fused.formats import STORED
from merge_core.methods.base import CHUNK
from merge_core.reading import BlockReader
from merge_core.safetensors_header import TensorEntry


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A run of elements of one tensor; `start` is the flat index of the first.

    The arrays hold stored patterns (`formats.STORED`) and are valid until the next block is read.
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

    def part(self, first: int, last: int) -> StoredBlock:
        """The elements `first : last`, as indices into the whole tensor."""
        run = slice(first - self.start, last - self.start)
        base = None if self.base is None else self.base[run]
        return StoredBlock(first, base, tuple(model[run] for model in self.models))


class StoredTensor:
    """The inputs of one output tensor, all of the same dtype, as one worker reads them.

    Args:
        block: elements of a usual block.
        check: called before each block; raises when the merge is being given up.
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

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[StoredBlock]:
        """All elements from `start` to `stop`, in order."""
        end = self.numel if stop is None else stop
        for first in range(start, end, self.block):
            yield self.read(first, min(self.block, end - first))

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
    """Blocks must begin at multiples of it."""
    drops = False
    """Whether an entry may be left out of the result, and a NaN with it, so that no trace of it is
    left in what is written."""

    def prepare(self, tensor: StoredTensor) -> None:
        """Read the tensor as often as needed before any block of it can be combined."""

    @abstractmethod
    def combine(self, block: StoredBlock, out: Array) -> None:
        """Write a block's merged values into `out`, each rounded once."""


class Unusual(Exception):  # noqa: N818 - not an error: the general kernels take over
    """This tensor is not one for fused kernels.

    Parts of it may have been written: the method's own kernel writes the same bytes, or fails.
    """
