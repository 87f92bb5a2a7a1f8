"""A merge's working directory as such: one holder at a time, and no file in it that is not ours.

Who waits for it is told whom for. The holder's name in the lock file is for people only; what
counts is the lock, which the kernel frees when its holder dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import time
from pathlib import Path
from typing import TextIO

from merge_core.errors import OutputError
from merge_core.progress import WAITS, Progress, ProgressEvent

LOCK = "lock"
JOURNAL = "journal"
JOB = "job.json"
GROUPS = "groups"
CHECKPOINT = "checkpoint"
REPLACED = "replaced"
_OURS = {JOURNAL, f"{JOURNAL}.new", JOB, f"{JOB}.new", GROUPS, CHECKPOINT, REPLACED}
_LEFT_BY_NFS = ".nfs"
"""So begins the name of a file that was removed while somebody had it open."""
_LOOK_EVERY = 0.2
_LONGEST_NAME = 300


def hold(directory: Path, progress: Progress | None = None) -> int:
    """Make the directory, or wait for whoever holds it; the lock's descriptor.

    Raises:
        OutputError: something in that place is not a merge's.
        OSError: it cannot be made or locked.
    """
    while True:
        _refuse_what_is_not_ours(directory)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / LOCK
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(path, flags, 0o644)
        except FileNotFoundError:
            continue
        try:
            _wait_for(descriptor, progress)
            if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
                _sign(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed the directory


def remove(directory: Path) -> None:
    """Remove what is ours, as far as possible, the lock last: without it nothing else is ours."""
    for name in (*sorted(_OURS), LOCK):
        remove_entry(directory / name)
    with contextlib.suppress(OSError):
        directory.rmdir()


def remove_entry(path: Path) -> None:
    """Remove what a directory has at that name, as far as possible; nothing behind a link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def open_afresh(path: Path) -> TextIO:
    """Open a new file for text: what lies in its place is removed, not followed or written to.

    Raises:
        OSError: it cannot be made.
    """
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o644), "w", encoding="utf-8")


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
    names = {name for name in found if not name.startswith(_LEFT_BY_NFS)}
    strange = names - _OURS - {LOCK} if is_ours else names
    if strange:
        raise OutputError(
            f"this merge would work in that directory, but {min(strange)!r} in it is no merge's",
            where=str(directory),
            mend="move the directory away, or write to another place",
        )


def _wait_for(descriptor: int, progress: Progress | None) -> None:
    told = ""
    while not _locked(descriptor):
        told = told or f"waiting for {_holder(descriptor)}"
        if progress:
            progress(ProgressEvent(told, 0, 1, WAITS))
        time.sleep(_LOOK_EVERY)
    if told and progress:
        progress(ProgressEvent(told, 1, 1, WAITS))


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} {os.uname().nodename}\n".encode(), 0)


def _holder(descriptor: int) -> str:
    name = os.pread(descriptor, _LONGEST_NAME, 0).decode("utf-8", "replace").strip()
    process, _, machine = name.partition(" ")
    if not process.isdecimal():
        return "another merge to the same place"
    where = "" if machine == os.uname().nodename else f" on {machine}"
    return f"process {process}{where}, which merges to the same place"
