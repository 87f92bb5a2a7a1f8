"""What a planned tensor reads: bytes on disk, or values made from them while they stream.

A tensor input has a name, a dtype and a shape, and opens a `Feed` of its values. A tensor on disk
is one; so are a LoRA adapter applied to a matrix, an embedding with its rows rearranged for another
vocabulary, and a tensor that another recipe computes. A checkpoint whose tensors are such inputs is
planned and merged like any other, and none of them is ever written to disk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from merge_core.dtypes import ITEM_SIZES
from merge_core.errors import NonFiniteError
from merge_core.lazy_torch import torch
from merge_core.reading import BlockReader
from merge_core.safetensors_header import TensorEntry

_MEASURED = 1 << 18


class Feed(Protocol):
    """The values of one tensor."""

    def read(self, start: int, count: int) -> torch.Tensor:
        """Elements `start : start + count` of the flattened tensor: float64, on the device.

        The same elements have the same bits, whatever blocks they are asked for in, and are valid
        until the next read.
        """


class MadeTensor(Protocol):
    """A tensor that is made from others as it is read."""

    @property
    def name(self) -> str:
        """The tensor's name in its checkpoint."""

    @property
    def dtype(self) -> str:
        """Safetensors code of the dtype that it would be stored in."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def numel(self) -> int:
        """Number of elements."""

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """Every tensor on disk that it is made from."""

    def open(self, context: FeedContext) -> Feed:
        """Its values, for one worker."""


TensorInput = TensorEntry | MadeTensor


class FeedContext:
    """What a worker lends to the feeds of its tensors."""

    def __init__(self, reader: BlockReader, device: torch.device, block: int) -> None:
        self.reader = reader
        self.device = device
        self.block = block
        """Elements of a usual block."""

    def open(self, source: TensorInput) -> Feed:
        """The values of an input."""
        return _Stored(source, self) if isinstance(source, TensorEntry) else source.open(self)


def values_of(source: TensorInput, reader: BlockReader) -> Callable[[int, int], torch.Tensor]:
    """Reads `start, count` elements of an input, flat, on the CPU, for those who only measure.

    Stored values come as they are stored, NaN included; made ones as float64.
    """
    if isinstance(source, TensorEntry):
        return partial(reader.read, source)
    return source.open(FeedContext(reader, torch.device("cpu"), _MEASURED)).read


def entries_of(source: TensorInput) -> tuple[TensorEntry, ...]:
    """Every tensor on disk that an input is made from."""
    return (source,) if isinstance(source, TensorEntry) else source.entries


class _Stored:
    """A tensor on disk, every value of it checked to be finite."""

    def __init__(self, entry: TensorEntry, context: FeedContext) -> None:
        self._entry = entry
        self._context = context
        self._buffer = bytearray()

    def read(self, start: int, count: int) -> torch.Tensor:
        size = count * ITEM_SIZES[self._entry.dtype]
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        stored = self._context.reader.read(self._entry, start, count, self._buffer)
        values = stored.to(self._context.device).to(torch.float64)
        _check_finite(self._entry, values)
        return values


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
