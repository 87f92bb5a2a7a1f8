"""The owner of a file, the users who may replace it, and how a message names them."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MOST_LINKS = 40


@dataclass(frozen=True)
class Way:
    """A directory or link that the look-up of a path passes."""

    path: Path
    status: os.stat_result

    @property
    def is_link(self) -> bool:
        """Whether it is a link."""
        return stat.S_ISLNK(self.status.st_mode)


def way_to(path: Path) -> Iterator[Way]:
    """Everything that the look-up of a path passes, from the root on, what it leads to last.

    Raises:
        OSError: something of it is missing or cannot be looked at, or links lead in a circle.
    """
    here, links = Path(path.absolute().anchor), 0
    pending = list(reversed(path.absolute().parts[1:]))
    yield Way(here, here.lstat())
    while pending:
        name = pending.pop()
        if name == "..":
            here = here.parent
            continue
        way = Way(here / name, (here / name).lstat())
        yield way
        if not way.is_link:
            here = way.path
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = way.path.readlink()
        if target.is_absolute():
            here = Path(target.anchor)
        pending += reversed([part for part in target.parts if part != target.anchor])


def is_roots(uid: int) -> bool:
    """Whether this is root, as far as can be seen: in a user namespace that root has no name in,
    the files of the real one show the same owner as those of any stranger."""
    return uid == 0 or (uid == _overflow_uid() and _in_user_namespace())


def sees_owners() -> bool:
    """Whether owners can be told apart: not where this very user has no number of its own."""
    return not (is_unmapped(os.geteuid()) and _in_user_namespace())


def is_unmapped(uid: int) -> bool:
    """Whether this is the owner that the kernel shows for one it has no number for."""
    return uid == _overflow_uid()


def has_group_to_itself(uid: int, gid: int) -> bool:
    """Whether a group is a user's private one: of the same name, without other members."""
    if uid == 0:
        return False
    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    own = user.pw_gid == gid and user.pw_name == group.gr_name
    return own and set(group.gr_mem) <= {user.pw_name}


def others_may_write(status: os.stat_result) -> bool:
    """Whether others than its owner may write something: all, or a group that is not the owner's
    own. Links say nothing."""
    if stat.S_ISLNK(status.st_mode):
        return False
    shared = status.st_mode & stat.S_IWGRP and not has_group_to_itself(status.st_uid, status.st_gid)
    return bool(status.st_mode & stat.S_IWOTH or shared)


def user_named(uid: int) -> str:
    """`alice (uid 1000)`."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def group_named(gid: int) -> str:
    """`staff (gid 50)`."""
    try:
        return f"{grp.getgrgid(gid).gr_name} (gid {gid})"
    except KeyError:
        return f"gid {gid}"


def _overflow_uid() -> int:
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return 65534


def _in_user_namespace() -> bool:
    try:
        rows = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    except OSError:
        return False
    return [row for row in rows if row[2:] == ["4294967295"]] == []
