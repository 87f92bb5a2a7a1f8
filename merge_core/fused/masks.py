"""Which entries of a task vector stay, as compiled loops ask it: by the type of the mask.

* `()`: all stay;
* `(low,)` or `(low, high)`, float64: those whose magnitude is at least `low`, and below `high`;
* `(key, limit)`, uint64: those whose random number is below the limit, see `random_bits`;
* an array of uint8: those where it is 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from merge_core.fused.formats import kept_if

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)


def kept(mask: Any, delta: float, start: int, i: int) -> float:
    """`delta`, the entry `start + i` of a task vector, or a zero of its sign if it goes."""
    raise NotImplementedError("only for compiled code")


@overload(kept, inline="always")
def _kept(mask: Any, delta: Any, start: Any, i: Any) -> Any:
    if isinstance(mask, types.Array):

        def given(mask: Any, delta: Any, start: Any, i: Any) -> Any:
            return kept_if(mask[i] != 0, delta)

        return given
    if len(mask) == 0:

        def every(mask: Any, delta: Any, start: Any, i: Any) -> Any:
            return delta

        return every
    if mask[0] == types.float64:
        if len(mask) == 1:

            def large(mask: Any, delta: Any, start: Any, i: Any) -> Any:
                return kept_if(abs(delta) >= mask[0], delta)

            return large

        def in_band(mask: Any, delta: Any, start: Any, i: Any) -> Any:
            return kept_if((abs(delta) >= mask[0]) & (abs(delta) < mask[1]), delta)

        return in_band

    def drawn(mask: Any, delta: Any, start: Any, i: Any) -> Any:
        bits = np.uint64(start + i + 1) * _GOLDEN + mask[0]
        bits = (bits ^ (bits >> np.uint64(30))) * _MULTIPLIER_1
        bits = (bits ^ (bits >> np.uint64(27))) * _MULTIPLIER_2
        bits = (bits ^ (bits >> np.uint64(31))) >> np.uint64(11)
        return kept_if(bits < mask[1], delta)

    return drawn


def part(mask: Any, first: int, last: int) -> Any:
    """The mask of a run of a block's entries."""
    raise NotImplementedError("only for compiled code")


@overload(part, inline="always")
def _part(mask: Any, first: Any, last: Any) -> Any:
    if isinstance(mask, types.Array):

        def run(mask: Any, first: Any, last: Any) -> Any:
            return mask[first:last]

        return run

    def same(mask: Any, first: Any, last: Any) -> Any:
        return mask

    return same
