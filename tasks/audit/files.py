"""The checkpoint's own files, every byte of them, without the digest memo."""

from __future__ import annotations

from pathlib import Path

from merge_core.errors import CheckpointError, UnreadableError
from merge_core.files.owners import others_may_write
from merge_core.findings import printable
from merge_core.store.objects import pointer_problems, stored_place
from tasks.audit.evidence import Evidence
from tasks.audit.report import Answers


def check(evidence: Evidence, answers: Answers) -> None:
    """Files present are the files listed, each with its sha256; in a store also its place."""
    checkpoint = evidence.checkpoint
    if checkpoint is None:
        answers.unknown("nothing says which files there have to be")
        return
    if not checkpoint.directory.is_dir():
        missing = f"the checkpoint is not on this machine: {checkpoint.path}"
        stored = stored_place(checkpoint.directory)
        if stored is not None and stored.parent == evidence.home.objects:
            answers.fails(f"the object is gone from this home's store: {checkpoint.path}")
        else:
            answers.unknown(missing)
        return
    try:
        found = evidence.departed
    except UnreadableError as error:
        answers.unknown(error.what)
        return
    except CheckpointError as error:
        answers.fails(error.what)
        return
    for problem in found:
        answers.fails(f"{problem}: {checkpoint.path}")
    stored = stored_place(checkpoint.directory)
    if stored is not None and not found:
        for problem in pointer_problems(stored):
            answers.fails(problem)
    if stored is not None and not others_may_write(evidence.home.path.stat()):
        _open_to_others(stored, answers)  # else the file system has no modes that could tell
    if not answers.failed:
        place = "its place in the store is its object id" if stored else "in a directory of its own"
        answers.holds(f"{len(checkpoint.files)} files, every byte as recorded; {place}")


def _open_to_others(stored: Path, answers: Answers) -> None:
    """A published object can be written by nobody."""
    for path in (stored, *sorted(stored.rglob("*"))):
        if others_may_write(path.lstat()):
            name = "its directory" if path == stored else printable(path.relative_to(stored))
            answers.fails(
                f"others than its owner may write {name}, which mergeflow never allows: {stored}"
            )
