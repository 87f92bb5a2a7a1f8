"""Which entries of a task vector stay, as compiled loops ask it: by the type of the mask.

* `()`: all stay;
* `(low,)` or `(low, high)`, float64: those whose magnitude is at least `low`, and below `high`;
* an array of uint8: those where it is 1.
"""

from __future__ import annotations

from typing import Any

from merge_core.jit.calling_convention import chosen_by_type
from merge_core.jit.formats import kept_if
from merge_core.jit.lazy_numba import types


def kept(mask: Any, delta: float, i: int) -> float:
    """`delta`, the entry `i` of a task vector's block, or a zero of its sign if it goes."""
    raise NotImplementedError("only for compiled code")


@chosen_by_type(kept)
def _kept(mask: Any, delta: Any, i: Any) -> Any:
    if isinstance(mask, types.Array):

        def given(mask: Any, delta: Any, i: Any) -> Any:
            return kept_if(mask[i] != 0, delta)

        return given
    if len(mask) == 0:

        def every(mask: Any, delta: Any, i: Any) -> Any:
            return delta

        return every
    if len(mask) == 1:

        def large(mask: Any, delta: Any, i: Any) -> Any:
            return kept_if(abs(delta) >= mask[0], delta)

        return large

    def in_band(mask: Any, delta: Any, i: Any) -> Any:
        return kept_if((abs(delta) >= mask[0]) & (abs(delta) < mask[1]), delta)

    return in_band
