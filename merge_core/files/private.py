"""Files and directories that only their owner may read, whatever the process's umask is."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

PRIVATE_DIRECTORY = 0o700
PRIVATE_FILE = 0o600
PRIVATE_UMASK = 0o077
"""For child processes: `Popen(umask=PRIVATE_UMASK)`."""


def make_private_directory(path: Path) -> None:
    """Create a directory and its missing parents, each with mode 0700.

    Directories that exist keep their modes.

    Raises:
        OSError: a directory cannot be made, or something else has its name.
    """
    missing = []
    for directory in (path, *path.parents):
        if directory.is_dir():
            break
        missing.append(directory)
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=PRIVATE_DIRECTORY)
            directory.chmod(PRIVATE_DIRECTORY)  # a umask may have taken the owner's own rights
    if not path.is_dir():
        raise NotADirectoryError(20, "something that is no directory has this name", str(path))


def write_private(path: Path, content: str | bytes) -> None:
    """Put a file of mode 0600 in place at once: its readers see the old content or the new one.

    Raises:
        OSError: the file cannot be written.
    """
    make_private_directory(path.parent)
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(6)}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(fresh, flags, PRIVATE_FILE), "wb") as file:
            os.fchmod(file.fileno(), PRIVATE_FILE)
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def open_private(path: Path) -> int:
    """A descriptor to append to a file, which is made with mode 0600 if it is missing.

    Raises:
        OSError: it cannot be made or opened.
    """
    make_private_directory(path.parent)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(path, flags, PRIVATE_FILE)
    with contextlib.suppress(OSError):
        if stat.S_IMODE(os.fstat(descriptor).st_mode) & PRIVATE_UMASK:
            os.fchmod(descriptor, PRIVATE_FILE)
    return descriptor


@contextlib.contextmanager
def private_umask() -> Iterator[None]:
    """Whatever this process makes meanwhile, libraries included, is its owner's alone.

    A umask is the whole process's: files that other threads make meanwhile are private, too.
    """
    with _umasks.held(PRIVATE_UMASK):
        yield


@contextlib.contextmanager
def as_open_as(directory: Path) -> Iterator[None]:
    """Within `private_umask`, files that are as open as the directory they are made below.

    For what goes into directories of the user's own, such as the Hub's cache, which several users
    may share. Outside of `private_umask` nothing changes: the user's umask holds.
    """
    if not _umasks.private:
        yield
        return
    with _umasks.held(umask_of(directory)):
        yield


def child_umask(directory: Path) -> int:
    """For `Popen(umask=...)` of a child that writes below a directory of the user's own: as
    `as_open_as`."""
    return umask_of(directory) if _umasks.private else -1


def umask_of(directory: Path) -> int:
    """The umask by which files are as open as a directory, but never for all to write; one that has
    to be made is private."""
    if not directory.is_dir():
        return PRIVATE_UMASK
    return ~stat.S_IMODE(directory.stat().st_mode) & PRIVATE_UMASK | stat.S_IWOTH


class _Umasks:
    """The umasks that hold in this process, the latest last; below them the user's own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: list[int] = []
        self._own = 0

    @property
    def private(self) -> bool:
        """Whether the user's own umask does not hold now."""
        return bool(self._held)

    @contextlib.contextmanager
    def held(self, umask: int) -> Iterator[None]:
        """Let a umask hold for the block; blocks of several threads may overlap."""
        with self._lock:
            before = os.umask(umask)
            if not self._held:
                self._own = before
            self._held.append(umask)
        try:
            yield
        finally:
            with self._lock:
                self._held.remove(umask)
                os.umask(self._held[-1] if self._held else self._own)


_umasks = _Umasks()
