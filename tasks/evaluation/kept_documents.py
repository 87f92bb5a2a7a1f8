"""The files of a suite for the record: its tasks, and the data that they read from this disk.

The record has the digest of each document in any case. Their text may be somebody else's, so it is
kept where the suite ships it, which is a copy of what lies beside the suite's definition, or where
the pipeline asks for it. Then `document_texts` gives the documents themselves, wherever from.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tasks.evaluation.suite import Suite, is_self_contained, suite_files

DIRECTORY = "suite"
"""Among the files of a merge's run in MLflow."""
MOST_BYTES = 256 << 20
"""Of a suite's files and the text of its documents, together."""


class Kept(NamedTuple):
    """What a record keeps of a suite."""

    files: dict[str, bytes]
    """By the name in the record."""
    left_out: tuple[str, ...] = ()
    """Why something that was asked for is not among them."""

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(map(len, self.files.values()))


def kept_documents(suite: Suite, asked: bool | None) -> Kept:
    """The files of a suite that belong into the record.

    Args:
        asked: whether they are to be kept; None: if the suite ships all of them.
    """
    inside, outside = _places(suite)
    if asked is False or (asked is None and (outside or not is_self_contained(suite))):
        return Kept({})
    files = inside + (outside if asked else [])
    size = sum(path.stat().st_size for path in files)
    if size > MOST_BYTES:
        said = f"its files have {size:,} bytes, and {MOST_BYTES:,} are the most that is kept"
        return Kept({}, (said,) if asked else ())
    directory = Path(suite.directory)
    return Kept({kept_name(os.path.relpath(path, directory)): path.read_bytes() for path in files})


def kept_name(name: str) -> str:
    """Where a file lies in the record.

    Args:
        name: relative to the suite's directory, as `suite_content` has it.
    """
    parts = ("up" if part == ".." else part for part in PurePosixPath(name).parts)
    return str(PurePosixPath(DIRECTORY, *parts))


def _places(suite: Suite) -> tuple[list[Path], list[Path]]:
    """The suite's files below its directory, and those that are elsewhere, by links as well."""
    directory = Path(suite.directory).resolve()
    inside: list[Path] = []
    outside: list[Path] = []
    for path in suite_files(suite):
        if not stat.S_ISREG(path.stat().st_mode):
            continue
        (inside if path.resolve().is_relative_to(directory) else outside).append(path)
    return inside, outside
