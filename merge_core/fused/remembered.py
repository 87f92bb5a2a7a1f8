"""Masks that one pass over a tensor finds out and the next needs again, kept as bits."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence

import numpy as np

from merge_core.fused.compiling import Array

MOST = 1 << 29
"""Bits that a process keeps at a time: 64 MB, or two masks of 128 256 x 2048 entries."""


class _Room:
    """What is left of `MOST`, for all workers together."""

    def __init__(self) -> None:
        # Masks may be given back by the garbage collector, in the middle of anything.
        self._lock = threading.RLock()
        self._taken = 0

    def take(self, bits: int) -> bool:
        with self._lock:
            fits = self._taken + bits <= MOST
            if fits:
                self._taken += bits
            return fits

    def give_back(self, bits: int) -> None:
        with self._lock:
            self._taken -= bits


_room = _Room()


class RememberedMasks:
    """The masks of one tensor's blocks. Without room for all of them, it remembers none.

    Args:
        count: masks of each block.
        numel: entries of all blocks.
    """

    def __init__(self, count: int, numel: int) -> None:
        self._masks: dict[int, list[Array]] = {}
        self._fits = _room.take(count * numel)
        if self._fits:
            weakref.finalize(self, _room.give_back, count * numel)

    def put(self, start: int, masks: Sequence[Array]) -> None:
        """Remember the masks (uint8, 0 or 1) of the block that begins at an index."""
        if self._fits:
            self._masks[start] = [np.packbits(mask) for mask in masks]

    def get(self, start: int, count: int) -> tuple[Array, ...] | None:
        """The masks of a block of `count` entries, or None if they must be found again."""
        packed = self._masks.get(start)
        if packed is None:
            return None
        return tuple(np.unpackbits(bits, count=count) for bits in packed)
