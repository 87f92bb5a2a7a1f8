"""From a directory to a `SourceCheckpoint`: which files count and what they hash to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from merge_core.checkpoint import open_checkpoint
from merge_core.digests import DigestMemo, is_model_file, model_digest
from merge_core.progress import Progress, Throttle
from merge_core.records import FileDigest, SourceCheckpoint

_HASHING_THREADS = 4


def describe_source(
    reference: str,
    directory: Path,
    memo: DigestMemo,
    *,
    revision: str | None = None,
    progress: Progress | None = None,
) -> SourceCheckpoint:
    """Check a checkpoint's headers and identify it by the content of its model files.

    Raises:
        CheckpointError: see `merge_core.checkpoint.open_checkpoint`.
    """
    directory = directory.absolute()
    open_checkpoint(directory)
    files = hash_files(model_files(directory), memo, f"hash {reference}", progress)
    return SourceCheckpoint(
        reference=reference,
        path=str(directory),
        revision=revision,
        digest=model_digest(files),
        files=files,
    )


def model_files(directory: Path) -> list[Path]:
    """The files of a checkpoint directory that decide what the model computes, by name."""
    return sorted(path for path in directory.iterdir() if is_model_file(path.name))


def hash_files(
    paths: list[Path], memo: DigestMemo, stage: str, progress: Progress | None = None
) -> tuple[FileDigest, ...]:
    """Digests of files of one directory, several at a time, in the order given."""
    throttle = Throttle(progress, stage, sum(path.stat().st_size for path in paths))
    lock = Lock()

    def advance(count: int) -> None:
        with lock:
            throttle.advance(count)

    def one(path: Path) -> FileDigest:
        sha256 = memo.sha256(path, advance)
        return FileDigest(name=path.name, size=path.stat().st_size, sha256=sha256)

    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        return tuple(pool.map(one, paths))
