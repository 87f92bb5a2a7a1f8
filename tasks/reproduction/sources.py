"""Checkpoints of a recorded merge on this machine, found by digest wherever they are now.

A name says where to look first and nothing of what is there: aliases move, directories are renamed
and edited. What counts is the digest, computed from every byte and not from the memo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from merge_core.checkpoints.sources import (
    describe_adapter,
    describe_source,
    former_digest,
    with_adapter,
)
from merge_core.errors import CheckpointError
from merge_core.files.digests import DigestMemo
from merge_core.findings import counted, some
from merge_core.progress import Progress
from merge_core.records import FileDigest, SourceAdapter, SourceCheckpoint
from merge_core.store.vouching import departures
from tasks.registry.lock import LockedPlace
from tasks.reproduction.places import Places
from tasks.reproduction.recorded import Described
from tasks.reproduction.report import MissingSource

P = TypeVar("P", SourceCheckpoint, SourceAdapter)


class NotFoundError(Exception):
    """A checkpoint is nowhere where it was looked for."""

    def __init__(self, missing: MissingSource) -> None:
        super().__init__(missing.digest)
        self.missing = missing


class Finder:
    """Finds checkpoints by digest."""

    def __init__(self, places: Places, progress: Progress | None = None) -> None:
        self._places, self._progress = places, progress

    def source(self, wanted: Described) -> SourceCheckpoint:
        """The checkpoint of a merge, with the adapter that its digest covers.

        A first checkpoint with an adapter was written out as one before it was merged. Where that
        is gone, the two are given, with another digest: they have to be written out again.

        Raises:
            NotFoundError: it, or its adapter, is nowhere.
        """
        locked, known = wanted
        first = locked.places[0]
        if not locked.has_adapter:
            return self._checkpoint(first, locked.reference, known)
        if known is not None and known.adapter is None:
            try:
                whole = first.model_copy(update={"path": known.path, "digest": locked.digest})
                return self._checkpoint(whole, locked.reference, known)
            except NotFoundError:
                known = None
        second = locked.places[1]
        base = self._checkpoint(first, first.reference, known)
        adapter = self._adapter(second, known.adapter if known else None)
        return with_adapter(locked.reference, base, adapter)

    def _checkpoint(
        self, wanted: LockedPlace, reference: str, known: SourceCheckpoint | None
    ) -> SourceCheckpoint:
        memo = DigestMemo(None)

        def identified(directory: Path) -> SourceCheckpoint:
            found = describe_source(
                reference, directory, memo, revision=wanted.revision, progress=self._progress
            )
            if found.digest != wanted.digest == former_digest(found, memo):
                return found.model_copy(update={"digest": wanted.digest})
            return found

        return self._found(wanted, known, identified)

    def _adapter(self, wanted: LockedPlace, known: SourceAdapter | None) -> SourceAdapter:
        def identified(directory: Path) -> SourceAdapter:
            return describe_adapter(
                wanted.reference,
                directory,
                DigestMemo(None),
                revision=wanted.revision,
                progress=self._progress,
            )

        return self._found(wanted, known, identified)

    def _found(self, wanted: LockedPlace, known: P | None, identified: Callable[[Path], P]) -> P:
        files: Sequence[FileDigest] = known.files if known else ()
        looked, others = [], 0
        for directory in self._places.of(wanted, known.path if known else None, files):
            try:
                found = identified(directory)
                if found.digest == wanted.digest:
                    return found
                why = f"another checkpoint is there ({found.digest[:12]})"
            except (CheckpointError, OSError) as error:
                why = error.what if isinstance(error, CheckpointError) else str(error.strerror)
            if directory == Path(wanted.path):
                looked.append(f"{directory}: {_changes(directory, known) or why}")
            else:
                others += 1
        looked += [f"{counted(others, 'other place')}: another digest"] if others else []
        raise NotFoundError(
            MissingSource(
                reference=wanted.reference,
                digest=wanted.digest,
                looked=tuple(looked or ["no place is known"]),
                mend=_mend(wanted),
            )
        )


def _changes(directory: Path, known: SourceCheckpoint | SourceAdapter | None) -> str:
    """In what the files of the recorded place differ from those that MLflow lists."""
    if not isinstance(known, SourceCheckpoint) or not directory.is_dir():
        return ""
    here = known.model_copy(update={"path": str(directory), "adapter": None})
    return some(departures(here, DigestMemo(None), afresh=True))


def _mend(wanted: LockedPlace) -> str:
    if wanted.version:
        return (
            f"make it again first: mergeflow reproduce {wanted.version} --out DIR; then name that"
            " directory with --look-in"
        )
    if wanted.revision:
        repository = wanted.reference.partition("@")[0]
        return f"download it: hf download {repository} --revision {wanted.revision}"
    return "put it back where it was, or name a directory above it with --look-in"
