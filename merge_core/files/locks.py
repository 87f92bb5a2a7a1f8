"""Locks of the kernel's: they end with the process that holds them, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def held(descriptor: int) -> Iterator[None]:
    """Hold the lock of an open file or directory, after whoever has it now; closed in the end."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def lock_file(path: Path, mode: int) -> int:
    """A descriptor of a file to lock, which is made if it is missing. No link is followed.

    Raises:
        OSError: it cannot be made or opened.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open(path, flags, mode)


def try_lock(descriptor: int, path: Path) -> bool:
    """Take the lock of an open file until it is closed, unless somebody holds it.

    Args:
        path: of the file, for the error.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        error.filename = str(path)
        raise
    return True
