"""Masks that one pass over a tensor finds out and the next needs again, kept as bits."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence

import numpy as np

from merge_core.jit.calling_convention import Array
from merge_core.jit.kernel import Kernel, StridedArgument, compiled
from merge_core.kernels.cpu.program import Step, calling

_GATHER = np.uint64(0x0102040810204080)
_COPIES = np.uint64(0x0101010101010101)
_DIAGONAL = np.uint64(0x8040201008040201)
_CARRY = np.uint64(0x7F7F7F7F7F7F7F7F)

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


class KeptMasks:
    """The masks of one tensor's blocks. Without room for all of them, it remembers none.

    Args:
        count: masks of each block.
        numel: entries of all blocks.
        block: entries of each block but the last.
    """

    def __init__(self, count: int, numel: int, block: int) -> None:
        self._block = block
        self._each = -(-block // 8)
        nbytes = -(-numel // block) * self._each
        self._bits: list[Array] = []
        if _room.take(8 * count * nbytes):
            weakref.finalize(self, _room.give_back, 8 * count * nbytes)
            self._bits = [np.empty(nbytes, np.uint8) for _ in range(count)]

    def put(self, start: StridedArgument, masks: Sequence[Array]) -> list[Step]:
        """What remembers the masks (uint8, 0 or 1) of the block that begins at an index."""
        return self._steps(_pack, start, masks)

    def get(self, start: StridedArgument, masks: Sequence[Array]) -> list[Step] | None:
        """What writes the masks of a block, or None if they must be found again."""
        return self._steps(_unpack, start, masks) or None

    def _steps(self, kernel: Kernel, start: StridedArgument, masks: Sequence[Array]) -> list[Step]:
        assert start.first % self._block == 0
        return [
            calling(kernel, mask, start, self._block, self._each, bits)
            for mask, bits in zip(masks, self._bits, strict=bool(self._bits))
        ]


@compiled
def _pack(mask: Array, start: int, block: int, each: int, bits: Array) -> None:
    """Write a block's mask as bits, which begin at `each` bytes for each block before it."""
    packed = bits[start // block * each :][: -(-mask.size // 8)]
    whole = mask.size // 8
    words = mask[: 8 * whole].view(np.uint64)
    for place in range(whole):
        # The product moves byte k's bit to bit 56 + k, and nothing else to there.
        packed[place] = np.uint8((words[place] * _GATHER) >> np.uint64(56))
    if whole < packed.size:
        packed[whole] = 0
    for i in range(8 * whole, mask.size):
        packed[whole] |= np.uint8(mask[i] << np.uint8(i - 8 * whole))


@compiled
def _unpack(mask: Array, start: int, block: int, each: int, bits: Array) -> None:
    """Write a block's mask from its bits."""
    packed = bits[start // block * each :][: -(-mask.size // 8)]
    whole = mask.size // 8
    words = mask[: 8 * whole].view(np.uint64)
    for place in range(whole):
        # Byte k keeps its own bit of eight copies; what is not 0 then reaches the byte's highest.
        spread = (np.uint64(packed[place]) * _COPIES) & _DIAGONAL
        words[place] = ((spread + _CARRY) >> np.uint64(7)) & _COPIES
    for i in range(8 * whole, mask.size):
        mask[i] = (packed[whole] >> np.uint8(i - 8 * whole)) & np.uint8(1)
