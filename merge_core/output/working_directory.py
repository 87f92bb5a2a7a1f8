"""A merge's working directory as such: one holder at a time, and no file in it that is not ours.

Who waits for it is told whom for. The holder's name in the lock file is for people only; what
counts is the lock, which the kernel frees when its holder dies.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import time
from pathlib import Path

from merge_core.errors import OutputError
from merge_core.files.durable import sync
from merge_core.files.locks import lock_file, try_lock
from merge_core.files.read_only import make_removable
from merge_core.progress import WAITS, Progress, ProgressEvent
from merge_core.runtime.machine import machine_name

LOCK = "lock"
JOURNAL = "journal"
JOB = "job.json"
GROUPS = "groups"
CHECKPOINT = "checkpoint"
_REPLACED = "replaced"
"""An earlier, damaged copy of the result, as earlier versions put it here."""
_OURS = {JOURNAL, f"{JOURNAL}.new", JOB, f"{JOB}.new", GROUPS, CHECKPOINT, _REPLACED}
_STILL_OPEN = (".nfs", ".fuse_hidden")
"""So begin the names that some file systems give to files removed while somebody had them open."""
_HOLDER = re.compile(r"(\d{1,19}) ([\w.-]{1,255})\n", re.ASCII)
"""The content of the lock file."""
_LOOK_EVERY = 0.2
_ATTEMPTS, _PAUSE = 200, 0.005
"""To make the directory and a lock in it, while others make and remove it."""
_LONGEST_NAME = 300


def hold(directory: Path, progress: Progress | None = None) -> int:
    """Make the directory, or wait for whoever holds it; the lock's descriptor.

    Raises:
        OutputError: something in that place is not a merge's.
        OSError: it cannot be made or locked.
    """
    path, attempts = directory / LOCK, 0
    while True:
        _refuse_what_is_not_ours(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            descriptor = lock_file(path, 0o644)
        except (FileNotFoundError, FileExistsError):
            attempts += 1
            if attempts > _ATTEMPTS:
                raise
            time.sleep(_PAUSE)  # somebody is just making it, or removing it
            continue
        try:
            _wait_for(descriptor, path, progress)
            if _is_at(descriptor, path):
                _sign(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed the directory


def remove(directory: Path) -> None:
    """Remove what is ours, as far as possible, the lock last and only when nothing else is left:
    without it the rest would not be known for ours by the next merge."""
    for name in sorted(_OURS):
        remove_entry(directory / name)
    if not any(os.path.lexists(directory / name) for name in _OURS):
        remove_entry(directory / LOCK)
        with contextlib.suppress(OSError):
            directory.rmdir()


def remove_entry(path: Path) -> None:
    """Remove what a directory has at that name, as far as possible; nothing behind a link."""
    if path.is_dir() and not path.is_symlink():
        make_removable(path)
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def holds_only_ours(directory: Path) -> bool:
    """Whether nothing lies in a directory but what a merge may have left there."""
    try:
        names = {path.name for path in directory.iterdir()}
    except OSError:
        return False
    return not {name for name in names if not name.startswith(_STILL_OPEN)} - _OURS - {LOCK}


def write_whole(path: Path, text: str) -> None:
    """Put a file in place at once: its readers, on any machine, see the old content or the new one.

    Raises:
        OSError: it cannot be written.
    """
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)  # what lies in its place is not followed or written to
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(fresh, flags, 0o644), "w", encoding="utf-8") as file:
        file.write(text)
    sync(fresh)
    fresh.rename(path)


def read_plain(path: Path) -> bytes:
    """What a file holds; a pipe in its place is not waited for.

    Raises:
        OSError: it cannot be read, or is no file.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with os.fdopen(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "no plain file", str(path))
        return file.read()


def _refuse_what_is_not_ours(directory: Path) -> None:
    if directory.is_symlink():
        raise OutputError(
            "a link stands where this merge would work, and what it leads to is not ours",
            where=str(directory),
            mend="remove the link, or write to another place",
        )
    try:
        found = {path.name for path in directory.iterdir()}
        is_ours = LOCK in found and stat.S_ISREG((directory / LOCK).lstat().st_mode)
    except FileNotFoundError:  # it is being removed
        return
    names = {name for name in found if not name.startswith(_STILL_OPEN)}
    strange = names - _OURS - {LOCK} if is_ours else names
    if strange:
        raise OutputError(
            f"this merge would work in that directory, but {min(strange)!r} in it is no merge's",
            where=str(directory),
            mend="move the directory away, or write to another place",
        )


def _wait_for(descriptor: int, path: Path, progress: Progress | None) -> None:
    told = ""

    def tell(stage: str) -> None:
        nonlocal told
        if progress and told not in ("", stage):
            progress(ProgressEvent(told, 1, 1, WAITS))
        if progress and stage:
            progress(ProgressEvent(stage, 0, 1, WAITS))
        told = stage

    while not try_lock(descriptor, path):
        tell(f"waiting for {_holder(descriptor)}")
        time.sleep(_LOOK_EVERY)
    tell("")


def _is_at(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    return False


def _sign(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # a full disk is told with what it would take
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {machine_name()}\n".encode(), 0)


def _holder(descriptor: int) -> str:
    found = None
    with contextlib.suppress(OSError):
        text = os.pread(descriptor, _LONGEST_NAME, 0).decode("utf-8", "replace")
        found = _HOLDER.fullmatch(text)
    if found is None:
        return "another merge to the same place"
    where = "" if found[2] == machine_name() else f" on {found[2]}"
    return f"process {found[1]}{where}, which merges to the same place"
