"""Has the kernel begin to write a file's pages to the disk: a later flush then finds few of them.

A hint and no promise: what must be on the disk is flushed with fsync all the same, which also
reports what went wrong in between. Linux only; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

_WRITE = 2
"""SYNC_FILE_RANGE_WRITE: begin writing, wait for nothing."""


def begin_write_back(descriptor: int, offset: int, nbytes: int) -> None:
    """Begin to write a part of a file, without waiting for it. Never raises.

    Args:
        offset: its first byte.
        nbytes: its length; nothing happens where it is 0.
    """
    call = _sync_file_range()
    if call is not None and nbytes:
        call(descriptor, offset, nbytes, _WRITE)


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """The C library's function, or None where it has none."""
    try:
        call = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError, TypeError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    call.restype = ctypes.c_int
    found: Callable[[int, int, int, int], int] = call
    return found
