"""The random numbers of `methods.parts.random_bits` in compiled loops."""

from __future__ import annotations

from typing import Any

import numpy as np

from merge_core.jit.calling_convention import Array
from merge_core.jit.kernel import compiled
from merge_core.methods.parts.random_bits import BITS


@compiled
def number(key: Any, index: Any) -> Any:
    """The random number of one entry (uint64): an integer of `BITS` bits, from SplitMix64."""
    bits = np.uint64(index + 1) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (bits ^ (bits >> np.uint64(31))) >> np.uint64(64 - BITS)


@compiled
def draw_mask(key: Any, limit: Any, start: int, mask: Array) -> None:
    """Write into `mask` (uint8) which entries from `start` on have a number below `limit`."""
    for i in range(mask.size):
        mask[i] = number(key, start + i) < np.uint64(limit)
