"""The Triton kernel that adds in lanes, and how every Triton kernel of this library is launched.

This module imports triton, which comes with the builds of torch for GPUs.
"""

from __future__ import annotations

import threading
from typing import Any

import triton
import triton.language as tl

EXACT = {"enable_fp_fusion": False}
"""How to compile, so that a product and a sum are rounded both."""
_launching = threading.Lock()


@triton.jit
def add_lanes(values, lanes, length, width: tl.constexpr):
    """Add up steps of `length` values (float64) in interleaved lanes, one step in each program.

    lanes: (programs, width), float64.
    """
    step = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, width)
    total = tl.zeros((width,), tl.float64)
    for first in range(0, length, width):
        place = first + lane
        total += tl.load(values + step * length + place, mask=place < length, other=0.0)
    tl.store(lanes + step * width + lane, total)


def launched(launch: Any, *arguments: Any, **constants: Any) -> None:
    """Start a kernel that was given its grid. Triton's first launch is not for several threads."""
    with _launching:
        launch(*arguments, **constants, **EXACT)
