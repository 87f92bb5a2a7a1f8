"""Reads files that mergeflow keeps for itself, in a directory that others may have written to.

What lies there is believed to be ours only if it is a plain file of this user's, of a size that we
would have written. Nothing is followed, waited for, or read without end; what is not believed is
moved aside, never deleted.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

ASIDE = "set-aside-"
"""Begins the name of a directory that holds what was not believed."""
_KINDS = (
    (stat.S_ISLNK, "it is a link"),
    (stat.S_ISDIR, "it is a directory"),
    (stat.S_ISREG, ""),
)


class NotOursError(ValueError):
    """Something of this name is there, and we did not write it. The text says why, in our words."""


def read_own(path: Path, limit: int) -> bytes:
    """The content of a file that this user wrote, at most `limit` bytes.

    Its owner is this user, root, or whoever owns its directory; only they can have put it there if
    the directory lets nobody else write.

    Raises:
        FileNotFoundError: nothing has this name.
        NotOursError: a link, a directory, a FIFO, a device, a file of somebody else's, one that is
            too large, or one that cannot be read.
    """
    try:
        _check(path, path.lstat(), limit)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags), "rb") as file:
            _check(path, os.fstat(file.fileno()), limit)
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise NotOursError(f"it cannot be read: {error.strerror}") from None
    if len(content) > limit:
        raise NotOursError(_too_large(limit))
    return content


def set_aside(path: Path) -> Path:
    """Move what has this name into a new directory beside it; where it is now.

    A link is moved as it is, and what it leads to stays where it is.

    Raises:
        OSError: it cannot be moved, or is gone already.
    """
    path.lstat()
    directory = Path(tempfile.mkdtemp(prefix=ASIDE, dir=path.parent))
    try:
        return path.rename(directory / path.name)
    except OSError:
        directory.rmdir()
        raise


def _check(path: Path, status: os.stat_result, limit: int) -> None:
    kind = next((word for test, word in _KINDS if test(status.st_mode)), "it is no plain file")
    if kind:
        raise NotOursError(kind)
    if hasattr(os, "geteuid"):
        believed = (os.geteuid(), 0, path.parent.stat().st_uid)
        if status.st_uid not in believed:
            raise NotOursError("it belongs to another user")
    if status.st_size > limit:
        raise NotOursError(_too_large(limit))


def _too_large(limit: int) -> str:
    return f"it is larger than {limit >> 20} MiB"
