"""Taking write permission from what is finished, and giving it back to what is to go.

Modes hold off programs that write by mistake and other users; they do not bind root.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def make_read_only(directory: Path) -> None:
    """Take write permission from a directory and all that is below it, as far as that is allowed.

    A directory without it cannot be moved to another one: publish first. Nothing behind a link.
    """
    for path in _upwards(directory):
        with contextlib.suppress(OSError):
            mode = path.lstat().st_mode
            if mode & _WRITE and not stat.S_ISLNK(mode):
                path.chmod(stat.S_IMODE(mode) & ~_WRITE)


def make_removable(directory: Path) -> None:
    """Let its owner move or remove a directory and all that is below it. Files stay read-only."""
    if directory.is_symlink():
        return
    with contextlib.suppress(OSError):
        directory.chmod(stat.S_IMODE(directory.lstat().st_mode) | stat.S_IRWXU)
        for path in directory.iterdir():
            if path.is_dir() and not path.is_symlink():
                make_removable(path)


def _upwards(directory: Path) -> Iterator[Path]:
    """All that is below a directory, deeper things first, and the directory itself at last."""
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            if path.is_dir() and not path.is_symlink():
                yield from _upwards(path)
            else:
                yield path
    yield directory
