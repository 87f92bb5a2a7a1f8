"""A file that is written for a person, where nothing has its name: whole, or not there."""

from __future__ import annotations

from pathlib import Path


def write_new(path: Path, content: str) -> None:
    """Write a text to a file that is not there yet. Nothing is left where it cannot be written.

    Raises:
        OSError: something has its name, or it cannot be written.
    """
    file = path.open("x", encoding="utf-8")
    try:
        with file:
            file.write(content)
    except BaseException:  # a disk that is full, Ctrl-C
        path.unlink(missing_ok=True)
        raise
