"""Closing a home to other users: the directory first, then what mergeflow keeps in it.

A home made before homes were private may have been open for years. What other users can have put
there is not believed: a home with things of theirs is refused, and what they could have written to
is named. A directory that is none of ours alone, such as /tmp, is never changed.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from merge_core.errors import HomeError
from merge_core.files.owners import group_named, user_named
from merge_core.files.private import PRIVATE_DIRECTORY, PRIVATE_UMASK
from merge_core.files.removal import file_system

MEMO, IDENTITY, STACK_FILE, STORE = "digests.sqlite", "identity", "stack.yaml", "store"
OURS = (
    *(MEMO, IDENTITY, STACK_FILE, STORE, "password", "registries.json"),
    *("averages", "cache", "history", "logs", "mlflow", "prefect", "scratch", "stack", "zoo"),
)
"""What a home holds."""
_OF_THE_SYSTEM = {"lost+found", ".gitignore"}
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_ONLY_SEARCH = stat.S_IXGRP | stat.S_IXOTH
_SHOWN = 3


@dataclass(frozen=True)
class Closed:
    """What closing a home has done and found."""

    before: int
    """The mode that it had."""
    group: int
    """The group that it belonged to."""
    closed: bool
    """Whether it is closed now; some file systems keep no modes."""
    writable: tuple[str, ...] = ()
    """Files in it that others could have written to."""


def close_home(home: Path, open_to: Callable[[], int | None] = lambda: None) -> Closed | None:
    """Take every right of others to a home and to all that is ours in it; None if there was none.

    Args:
        open_to: the group that may pass through the home itself, to the store; asked only of a home
            that somebody may pass through.

    Raises:
        HomeError: it is no home, or something in it belongs to another user, who can have put it
            there.
        OSError: it cannot be looked at.
    """
    descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        before = stat.S_IMODE(status.st_mode)
        rights = before & PRIVATE_UMASK
        if not rights or (rights == stat.S_IXGRP and status.st_gid == open_to()):
            return None
        _refuse_what_is_no_home(home, before)
        if not _change(descriptor, PRIVATE_DIRECTORY):
            return Closed(before, status.st_gid, closed=False)
        entries = list(_entries(descriptor))
        strange = [entry for entry in entries if entry.owner not in (0, os.geteuid())]
        if strange:
            # Looked at again by the next command, until there is nothing strange in it.
            _change(descriptor, before & ~_OTHERS_WRITE | _ONLY_SEARCH)
            raise _strange(home, strange)
        for entry in entries:
            entry.close(descriptor)
        writable = [entry.path for entry in entries if entry.is_file and entry.was_writable]
        if MEMO in writable:  # what it says of a file would be believed without a look at it
            os.unlink(MEMO, dir_fd=descriptor)
        return Closed(before, status.st_gid, closed=True, writable=tuple(writable))
    finally:
        os.close(descriptor)


def close_entries(directory: Path, *, but: str) -> None:
    """Take the rights of others to everything directly in a directory, except one name.

    Raises:
        OSError: it cannot be looked at.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in _names(descriptor):
            if name != but:
                _Entry(name, descriptor).close(descriptor)
    finally:
        os.close(descriptor)


def is_home(directory: Path) -> bool:
    """Whether a directory looks like a home: by what is in it, or there is nothing in it yet."""
    names = {path.name for path in directory.iterdir()} - _OF_THE_SYSTEM
    return directory.name == ".mergeflow" or not names or bool(names & set(OURS))


def closing_word(home: Path, closed: Closed) -> str:
    """What a person is told of a home that was found open."""
    whom = "other users of this machine"
    if closed.before & PRIVATE_UMASK == stat.S_IXGRP:
        whom = group_named(closed.group)
    if not closed.closed:
        return (
            f"{home}: {whom} can get in (mode {closed.before:04o}), and the file system lets nobody"
            " change that: nothing of this home is guarded from them"
        )
    said = (
        f"{home} was open to {whom} (mode {closed.before:04o}) and is closed now; if another"
        f" account serves from its store, say so in {home / STACK_FILE}: `store: {{group: NAME}}`"
    )
    if closed.writable:
        shown = ", ".join(closed.writable[:_SHOWN])
        more = ", ..." if len(closed.writable) > _SHOWN else ""
        said += (
            f". Others could have written to {len(closed.writable)} of its files ({shown}{more}):"
            " if you do not trust them, start with a new home"
        )
    return said


class _Entry:
    """Something in a home, by its path from there."""

    def __init__(self, path: str, home: int) -> None:
        status = os.stat(path, dir_fd=home, follow_symlinks=False)
        self.path = path
        self.owner = status.st_uid
        self.mode = stat.S_IMODE(status.st_mode)
        self.is_file = stat.S_ISREG(status.st_mode)
        self.is_directory = stat.S_ISDIR(status.st_mode)

    @property
    def was_writable(self) -> bool:
        """Whether others could write to it."""
        return bool(self.mode & _OTHERS_WRITE)

    def close(self, home: int) -> None:
        """Take the rights of others; nothing behind a link, and no device or socket."""
        if not (self.is_file or self.is_directory) or not self.mode & PRIVATE_UMASK:
            return
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self.path, flags, dir_fd=home)
        except OSError:
            return  # gone, or its owner may not read it either
        try:
            _change(descriptor, self.mode & ~PRIVATE_UMASK)
        finally:
            os.close(descriptor)


def _entries(home: int) -> Iterator[_Entry]:
    """What is directly in a home, and what is in its directories of ours; nothing behind links, and
    nothing of what is mounted there."""
    for top in _names(home):
        entry = _Entry(top, home)
        if not entry.is_directory:
            yield entry
        elif top in OURS:
            yield from _tree(entry, home)
        elif _listed(top, home) is not None:
            yield entry


def _tree(top: _Entry, home: int) -> Iterator[_Entry]:
    """A directory and all that is below it, to any depth that the system can name."""
    directories = [top]
    while directories:
        directory = directories.pop()
        names = _listed(directory.path, home)
        if names is None:
            continue
        yield directory
        for name in names:
            entry = _Entry(f"{directory.path}/{name}", home)
            if entry.is_directory:
                directories.append(entry)
            else:
                yield entry


def _listed(directory: str, home: int) -> list[str] | None:
    """The names in a directory of a home, none where it cannot be entered; None when something else
    is mounted there."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(directory, flags, dir_fd=home)
    except OSError:  # another user's, gone, or of a name that is too long for anybody
        return []
    try:
        return _names(descriptor) if file_system(descriptor) == file_system(home) else None
    finally:
        os.close(descriptor)


def _names(directory: int) -> list[str]:
    return os.listdir(directory)


def _refuse_what_is_no_home(home: Path, mode: int) -> None:
    if mode & stat.S_ISVTX or home.resolve() in (Path("/"), _users_directory()):
        raise HomeError(
            "this directory is not for mergeflow alone",
            where=str(home),
            mend="name one below it, which is made: "
            f"MERGEFLOW_HOME={shlex.quote(str(home / 'mergeflow'))}",
        )
    if not is_home(home):
        raise HomeError(
            f"other users can get into this directory (mode {mode:04o}), and it holds other things"
            " than a home's",
            where=str(home),
            mend=f"name another, or, if it is to be a home: chmod 700 {shlex.quote(str(home))}",
        )


def _users_directory() -> Path | None:
    try:
        return Path.home().resolve()
    except RuntimeError:
        return None


def _change(descriptor: int, mode: int) -> bool:
    """Change a mode, if the file system lets that be done; whether it has it now."""
    try:
        os.fchmod(descriptor, mode)
    except OSError:
        return False
    return stat.S_IMODE(os.fstat(descriptor).st_mode) == mode


def _strange(home: Path, entries: list[_Entry]) -> HomeError:
    owners = ", ".join(sorted({user_named(entry.owner) for entry in entries}))
    names = [entry.path for entry in entries[:_SHOWN]]
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return HomeError(
        f"this home was open, and things in it belong to {owners}: {', '.join(names)}{more}",
        where=str(home),
        mend="look at them, since every command believes what is there; then remove them, or make"
        f" them yours: sudo chown -R {os.geteuid()} {shlex.quote(str(home))}",
    )
