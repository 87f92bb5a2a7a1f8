"""Digests of a checkpoint's files, several at a time, with progress."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from merge_core.files.digests import DigestMemo
from merge_core.progress import Progress, SharedProgress, Throttle
from merge_core.records import FileDigest
from merge_core.runtime.threads import all_at_once

_THREADS = 4


def hash_files(
    directory: Path,
    paths: Sequence[Path],
    memo: DigestMemo,
    stage: str,
    progress: Progress | None = None,
    *,
    afresh: bool = False,
) -> tuple[FileDigest, ...]:
    """Digests of files below one directory, several at a time, in the order given.

    Args:
        afresh: read every byte, whatever the memo says.

    Raises:
        UnreadableError: a file cannot be read.
    """
    shared = SharedProgress(progress)
    throttle = Throttle(shared, stage, sum(path.stat().st_size for path in paths))
    lock = Lock()

    def advance(count: int) -> None:
        with lock:
            throttle.advance(count)

    def one(path: Path) -> FileDigest:
        sha256 = memo.sha256(path, advance, afresh=afresh)
        name = path.relative_to(directory).as_posix()
        return FileDigest(name=name, size=path.stat().st_size, sha256=sha256)

    # Who interrupts does not wait for gigabytes.
    return tuple(all_at_once(one, paths, _THREADS, shared.stop))
