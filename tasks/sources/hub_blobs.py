"""The Hub's cache, checked without the Hub: a blob's name is the hash of its content.

A file of a snapshot is a link to `blobs/NAME`. Of a large file the name is the sha256, of a small
one git's blob id. So what the cache holds can be told from what somebody, or a disk, made of it.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from merge_core.errors import CheckpointError, unreadable
from merge_core.findings import printable
from merge_core.records import FileDigest, SourceAdapter, SourceCheckpoint

_SHA256, _SHA1 = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{40}")


def check_blobs(source: SourceCheckpoint | SourceAdapter) -> None:
    """See that each file of a snapshot is the blob that it links to. A directory elsewhere, a cache
    without links and names that are no hash say nothing.

    Raises:
        CheckpointError: a blob has changed, or a file is no link where others are.
    """
    blobs = _blobs_of(source.directory)
    if blobs is None:
        return
    places = {file.name: (source.directory / file.name).resolve() for file in source.files}
    linked = {name for name, place in places.items() if place.parent == blobs}
    for file in source.files:
        place = places[file.name]
        if file.name in linked:
            if not _is_named_after(place, file):
                raise _not_as_downloaded(source, file, f"its content is not that of {place.name}")
        elif linked:
            raise _not_as_downloaded(source, file, "it is no link to a blob, as the others are")


def _blobs_of(directory: Path) -> Path | None:
    """Where the files of a snapshot are; None for a directory that is none."""
    snapshot = directory.resolve()
    repository = snapshot.parent.parent
    is_snapshot = snapshot.parent.name == "snapshots" and repository.name.startswith("models--")
    blobs = repository / "blobs"
    return blobs if is_snapshot and blobs.is_dir() else None


def _is_named_after(blob: Path, file: FileDigest) -> bool:
    if _SHA256.fullmatch(blob.name):
        return blob.name == file.sha256
    if not _SHA1.fullmatch(blob.name):
        return True
    try:
        content = blob.read_bytes()
    except OSError as error:
        raise unreadable(blob, error) from error
    # Git's id; some mirrors of the Hub give the plain sha1 instead.
    git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    plain = hashlib.sha1(content, usedforsecurity=False)
    return blob.name in (git.hexdigest(), plain.hexdigest())


def _not_as_downloaded(
    source: SourceCheckpoint | SourceAdapter, file: FileDigest, why: str
) -> CheckpointError:
    return CheckpointError(
        f"{printable(file.name)} in the Hub's cache is not what was downloaded: {why}",
        where=source.reference,
        mend=f"remove {source.directory / file.name} and its blob, and run again",
    )
