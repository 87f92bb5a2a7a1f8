"""A check of a directory that mergeflow made, byte by byte, without any memory of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from merge_core.errors import CheckpointError, refused
from merge_core.files.digests import DigestMemo
from merge_core.files.sha256sums import MAX_SUMS_BYTES, SUMS_NAME, read_sums
from merge_core.files.untrusted import read_plain
from merge_core.findings import printable
from merge_core.operations.execute import absolute_without_dotdot
from merge_core.output.manifest import MANIFEST_NAME, read_manifest, verify_manifest, verify_sums
from merge_core.progress import Progress
from merge_core.records import Record
from merge_core.store.objects import (
    is_object_id,
    object_id_of,
    object_problems,
    pointer_problems,
)


class DirectoryCheck(Record):
    """What a check of a directory found."""

    path: str
    object_id: str
    """sha256 of its SHA256SUMS."""
    in_store: bool
    """Whether its place gives it a name, which has to be that id."""
    files: int
    """Number of files that are listed."""
    problems: tuple[str, ...]
    """One sentence for each thing that does not hold."""


def check_directory(directory: Path, progress: Progress | None = None) -> DirectoryCheck:
    """Compare a directory with its own lists, and with its place if that is in a store.

    Raises:
        CheckpointError: there is nothing to compare it with.
        UnreadableError: a file cannot be read now.
    """
    directory, memo = absolute_without_dotdot(directory), DigestMemo(None)
    in_store = object_id_of(directory) is not None
    try:
        content = read_plain(directory / SUMS_NAME, MAX_SUMS_BYTES)
    except CheckpointError as error:
        if in_store and directory.is_dir():
            content = b""
        else:
            raise CheckpointError(
                f"there is no {SUMS_NAME} to compare this with: {printable(refused(error))}",
                where=str(directory),
                mend="name a directory that mergeflow made; one from elsewhere is identified by a"
                " merge that uses it",
            ) from None
    if in_store:
        problems = object_problems(directory, memo, afresh=True, progress=progress)
        problems += pointer_problems(directory) if not problems else []
    elif (directory / MANIFEST_NAME).exists():
        problems = _of_result(directory, memo, progress)
    else:
        problems = verify_sums(directory, content, memo, alone=False, progress=progress)
    return DirectoryCheck(
        path=str(directory),
        object_id=hashlib.sha256(content).hexdigest(),
        in_store=in_store,
        files=_count(content),
        problems=tuple(problems),
    )


def _of_result(directory: Path, memo: DigestMemo, progress: Progress | None) -> list[str]:
    """A checkpoint that a merge wrote to a directory of the user's."""
    try:
        manifest = read_manifest(directory)
    except CheckpointError as error:
        return [printable(refused(error), 400)]
    problems = verify_manifest(manifest, memo, afresh=True, progress=progress)
    if is_object_id(directory.name) and directory.name != manifest.object_id:
        problems.append(f"the sha256 of its {SUMS_NAME} is not its name")
    return problems


def _count(content: bytes) -> int:
    try:
        return len(read_sums(content))
    except ValueError:
        return 0
