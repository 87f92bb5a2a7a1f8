"""Paths as people write them, in recipes, in fields and on a command line."""

from __future__ import annotations

from pathlib import Path


def written_path(text: str | Path) -> Path:
    """A path with `~` and `~NAME` replaced, where they stand for a directory.

    Where there is no such user they are a name like any other, as in a shell.
    """
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:
        return path
