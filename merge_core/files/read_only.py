"""Taking write permission from what is finished, and giving it back to what is to go.

Modes hold off programs that write by mistake and other users; they do not bind root.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
_DEEPEST = 16
"""Levels of directories that are looked into: a checkpoint has three at most."""


def make_read_only(directory: Path) -> None:
    """Take write permission from a directory and all that is below it, as far as that is allowed.

    A directory without it cannot be moved to another one: publish first. Nothing behind a link.
    """
    for path in reversed(list(_below(directory))):
        with contextlib.suppress(OSError):
            mode = path.lstat().st_mode
            if mode & _WRITE and not stat.S_ISLNK(mode):
                path.chmod(stat.S_IMODE(mode) & ~_WRITE)


def make_removable(directory: Path) -> None:
    """Let its owner move or remove a directory and all that is below it. Files stay read-only."""
    for path in _below(directory):
        with contextlib.suppress(OSError):
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode) and mode & stat.S_IRWXU != stat.S_IRWXU:
                path.chmod(stat.S_IMODE(mode) | stat.S_IRWXU)


def _below(directory: Path) -> Iterator[Path]:
    """A directory and all that is below it, each directory before what it holds."""
    level = [directory]
    for _ in range(_DEEPEST):
        deeper = []
        for path in level:
            yield path
            if path.is_dir() and not path.is_symlink():
                with contextlib.suppress(OSError):
                    deeper += list(path.iterdir())
        level = deeper
