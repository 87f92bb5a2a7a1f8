"""The files of a suite for the record: its tasks, and the text of its documents.

The record has the digest of each document in any case. Their text may be somebody else's, so it is
kept where the suite ships it, which is a copy of what lies beside the suite's definition, or where
the pipeline asks for it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tasks.evaluation.lm_eval_files import read_own_tasks, unreachable_data
from tasks.evaluation.suite import Suite, suite_files

DIRECTORY = "suite"
"""Among the files of a merge's run in MLflow."""
_MOST_BYTES = 256 << 20


class Kept(NamedTuple):
    """What a record keeps of a suite."""

    files: dict[str, bytes]
    """By the name in the record."""
    left_out: tuple[str, ...] = ()
    """Why something that was asked for is not among them."""


def kept_documents(suite: Suite, asked: bool | None) -> Kept:
    """The files of a suite that belong into the record.

    Args:
        asked: whether they are to be kept; None: if the suite ships all of them.
    """
    inside, outside = _places(suite)
    if asked is False or (asked is None and (outside or _elsewhere(suite))):
        return Kept({})
    files = inside + (outside if asked else [])
    size = sum(path.stat().st_size for path in files)
    if size > _MOST_BYTES:
        said = f"its files have {size:,} bytes, and {_MOST_BYTES:,} are the most that is kept"
        return Kept({}, (said,) if asked else ())
    elsewhere = _elsewhere(suite) if asked else []
    directory = Path(suite.directory)
    return Kept(
        {kept_name(os.path.relpath(path, directory)): path.read_bytes() for path in files},
        tuple(
            f"the documents of {task} are no files of the suite: only their digests are kept"
            for task in elsewhere
        ),
    )


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


def _elsewhere(suite: Suite) -> list[str]:
    """Tasks whose documents are no files on this disk: lm-eval's own, data sets of the Hub."""
    own = read_own_tasks(suite.include_directory)
    return [
        task.task
        for task in suite.tasks
        if task.task not in own
        or any(
            unreachable_data(file.config, Path(suite.directory)).remote for file in own[task.task]
        )
    ]
