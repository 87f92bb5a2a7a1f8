"""Finds NaN and infinity in a checkpoint by reading every weight once, about as fast as memory.

In IEEE formats all exponent bits are set exactly for these values, so two maxima of the raw bits
decide a block: as signed integers for the positive ones, as unsigned for the negative ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from merge_core.checkpoints.checkpoint import Checkpoint
from merge_core.runtime.threads import ordered_map
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.dtypes import ITEM_SIZES, MERGEABLE
from merge_core.tensors.safetensors_header import TensorEntry

BLOCK = 1 << 18
_PIECE = 1 << 22


@dataclass(frozen=True)
class NonFinite:
    """A tensor with values that are no numbers."""

    tensor: str
    nan: int
    infinite: int

    def __str__(self) -> str:
        parts = [f"{self.nan:,} NaN"] * bool(self.nan)
        parts += [f"{self.infinite:,} infinite"] * bool(self.infinite)
        return f"{self.tensor} ({', '.join(parts)})"


@dataclass(frozen=True)
class _Format:
    signed: Any
    unsigned: Any
    infinity: int
    """The bits of +infinity: all exponent bits, no others."""

    @property
    def negative_infinity(self) -> int:
        bits = 8 * int(np.dtype(self.unsigned).itemsize)
        return self.infinity | (1 << (bits - 1))


_FORMATS = {
    "BF16": _Format(np.int16, np.uint16, 0x7F80),
    "F16": _Format(np.int16, np.uint16, 0x7C00),
    "F32": _Format(np.int32, np.uint32, 0x7F800000),
    "F64": _Format(np.int64, np.uint64, 0x7FF0000000000000),
}


def find_non_finite(
    checkpoint: Checkpoint,
    reader: BlockReader,
    threads: int,
    advance: Callable[[int], None] | None = None,
    known: dict[TensorEntry, tuple[int, int]] | None = None,
) -> list[NonFinite]:
    """Every float tensor that holds NaN or infinity, in name order; `advance` gets bytes read.

    Of tensors that are made as they are read, those are scanned that they are made from.

    Args:
        known: what earlier scans found, by tensor; not read again, and added to.
    """
    known = {} if known is None else known
    entries = _entries(checkpoint)
    counts = {entry: (0, 0) for entry in entries if entry not in known}
    if advance:
        advance(sum(entry.nbytes for entry in entries if entry in known))

    def scan(piece: tuple[TensorEntry, int, int]) -> tuple[TensorEntry, int, int, int]:
        entry, first, last = piece
        nan = infinite = 0
        for start in range(first, last, BLOCK):
            block = reader.read_bytes(entry, start, min(BLOCK, last - start))
            found = count_non_finite(block, entry.dtype)
            nan, infinite = nan + found[0], infinite + found[1]
        return entry, last - first, nan, infinite

    with closing(ordered_map(scan, _pieces(list(counts)), threads, uses_torch=False)) as scanned:
        for entry, elements, nan, infinite in scanned:
            counts[entry] = (counts[entry][0] + nan, counts[entry][1] + infinite)
            if advance:
                advance(elements * ITEM_SIZES[entry.dtype])
    known.update(counts)
    entries.sort(key=lambda entry: entry.name)
    return [NonFinite(entry.name, *known[entry]) for entry in entries if any(known[entry])]


def count_non_finite(block: bytearray, dtype: str) -> tuple[int, int]:
    """How many NaNs and how many infinities a block holds: stored values of a float dtype code."""
    form = _FORMATS[dtype]
    signed = np.frombuffer(block, form.signed)
    unsigned = signed.view(form.unsigned)
    if int(signed.max()) < form.infinity and int(unsigned.max()) < form.negative_infinity:
        return 0, 0
    magnitude = signed & form.signed(np.iinfo(form.signed).max)
    nan = int(np.count_nonzero(magnitude > form.infinity))
    return nan, int(np.count_nonzero(magnitude == form.infinity))


def scanned_bytes(checkpoint: Checkpoint) -> int:
    """How many bytes `find_non_finite` reads, or knows already."""
    return sum(entry.nbytes for entry in _entries(checkpoint))


def _pieces(entries: list[TensorEntry]) -> Iterator[tuple[TensorEntry, int, int]]:
    for entry in sorted(entries, key=lambda entry: (entry.path.name, entry.offset)):
        for first in range(0, entry.numel, _PIECE):
            yield entry, first, min(entry.numel, first + _PIECE)


def _entries(checkpoint: Checkpoint) -> list[TensorEntry]:
    """Every float tensor on disk that the checkpoint is, or is made from, once."""
    everything = [entry for source in checkpoint.tensors.values() for entry in source.entries]
    return list(dict.fromkeys(entry for entry in everything if entry.dtype in MERGEABLE))
