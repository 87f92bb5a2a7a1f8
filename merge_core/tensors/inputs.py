"""What a planned tensor reads: bytes on disk, or values made from them while they stream.

A `TensorInput` has a name, a dtype and a shape, opens a `Feed` of its values, and says whether it
is stored or made. A tensor on disk (`TensorEntry`) is stored. Made are a LoRA adapter applied to a
matrix, an embedding with its rows rearranged for another vocabulary, and a tensor that another
recipe computes. A checkpoint whose tensors are made is planned and merged like any other, and none
of them is ever written to disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import ClassVar, Protocol, Self

from merge_core.errors import NonFiniteError
from merge_core.runtime.gpu_transfers import fill
from merge_core.runtime.lazy_torch import torch
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.dtypes import ITEM_SIZES, torch_dtype
from merge_core.tensors.safetensors_header import TensorEntry

_MEASURED = 1 << 18


class Feed(Protocol):
    """The values of one tensor."""

    def read(self, start: int, count: int) -> torch.Tensor:
        """Elements `start : start + count` of the flattened tensor: float64, on the device.

        The same elements have the same bits, whatever blocks they are asked for in, and are valid
        until the next read.
        """


class TensorInput(Protocol):
    """One tensor of a checkpoint: stored, or made from stored ones as it is read."""

    @property
    def name(self) -> str:
        """The tensor's name in its checkpoint."""

    @property
    def dtype(self) -> str:
        """Safetensors code of the dtype that it is, or would be, stored in."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def numel(self) -> int:
        """Number of elements."""

    @property
    def stored(self) -> TensorEntry | None:
        """Itself where its values are on disk as they are; None where they are made."""

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """Every tensor on disk that it is, or is made from."""

    def called(self, name: str) -> TensorInput:
        """The same values under another name."""

    def open(self, context: FeedContext) -> Feed:
        """Its values, for one worker."""


class MadeTensor:
    """What all made tensors have alike. A made tensor is a frozen dataclass derived from this."""

    stored: ClassVar[None] = None

    @property
    def numel(self: TensorInput) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def called(self, name: str) -> Self:
        """The same values under another name."""
        return replace(self, name=name)  # type: ignore[type-var]


class FeedContext:
    """What a worker lends to the feeds of its tensors.

    Args:
        block: elements of a usual block.
        most_kept: bytes of stored values that may stay on the device for a later pass.
    """

    def __init__(
        self, reader: BlockReader, device: torch.device, block: int, most_kept: int = 0
    ) -> None:
        self.reader = reader
        self.device = device
        self.block = block
        self.is_remote = device.type != "cpu"
        """Whether values travel to the device: then they are looked at when a block is complete,
        since each look waits for the device, and may stay there."""
        self.reads_again = False
        """Whether what is read now is wanted once more."""
        self._room = most_kept
        self._unsettled: list[tuple[_Stored, int, int, torch.Tensor]] = []

    def open_stored(self, entry: TensorEntry) -> Feed:
        """The values of a tensor on disk."""
        return _Stored(entry, self)

    def see(self, feed: _Stored, start: int, count: int, values: torch.Tensor) -> None:
        """Find out whether values that were read are finite, now or when they are settled."""
        if self.is_remote:
            self._unsettled.append((feed, start, count, values.sum()))
        else:
            _check_finite(feed.entry, values)

    def may_keep(self, nbytes: int) -> bool:
        """Whether so many bytes more can stay on the device, which they then do."""
        keeps = self.reads_again and nbytes <= self._room
        self._room -= nbytes * keeps
        return keeps

    def settle(self) -> None:
        """Look at what was read since the last time.

        Raises:
            NonFiniteError: some of it is NaN or infinite.
        """
        if not self._unsettled:
            return
        unsettled, self._unsettled = self._unsettled, []
        if bool(torch.isfinite(torch.stack([total for *_, total in unsettled])).all()):
            return
        for feed, start, count, _ in unsettled:
            _check_finite(feed.entry, feed.values(start, count))


def values_of(source: TensorInput, reader: BlockReader) -> Callable[[int, int], torch.Tensor]:
    """Reads `start, count` elements of an input, flat, on the CPU, for those who only measure.

    Stored values come as they are stored, NaN included; made ones as float64.
    """
    if source.stored:
        return partial(reader.read, source.stored)
    return source.open(FeedContext(reader, torch.device("cpu"), _MEASURED)).read


class _Stored:
    """A tensor on disk, every value of it checked to be finite."""

    def __init__(self, entry: TensorEntry, context: FeedContext) -> None:
        self.entry = entry
        self._context = context
        self._buffer = bytearray()
        self._kept: dict[tuple[int, int], torch.Tensor] = {}

    def read(self, start: int, count: int) -> torch.Tensor:
        if (start, count) in self._kept:  # and was looked at when it was read
            return self._kept[start, count].to(torch.float64)
        values = self.values(start, count)
        self._context.see(self, start, count, values)
        return values

    def values(self, start: int, count: int) -> torch.Tensor:
        """The values as `read` gives them, NaN included."""
        if self._context.is_remote:
            return self._sent(start, count).to(torch.float64)
        size = count * ITEM_SIZES[self.entry.dtype]
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        stored = self._context.reader.read(self.entry, start, count, self._buffer)
        return stored.to(torch.float64)

    def _sent(self, start: int, count: int) -> torch.Tensor:
        dtype, reader = torch_dtype(self.entry.dtype), self._context.reader
        stored = torch.empty(count, dtype=dtype, device=self._context.device)
        fill(stored, lambda index, view: reader.read_into(self.entry, start + index, view))
        if self._context.may_keep(stored.nbytes):
            self._kept[start, count] = stored
        return stored


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
