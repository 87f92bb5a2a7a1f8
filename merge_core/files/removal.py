"""Moving and removing what lies in the store by descriptor: nothing behind a link is ever touched.

A path that was looked at may lead elsewhere a moment later. So every directory is opened without
following a link, and its entries are named relative to the open descriptor.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PLACE = getattr(os, "O_PATH", 0) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOUNT = re.compile(r"^mnt_id:\s*(\d+)", re.MULTILINE)
_ESCAPED = re.compile(r"\\([0-7]{3})")


def remove_entry(directory: Path, name: str) -> None:
    """Remove what a directory has at that name: a file, a link as such, or a whole tree.

    Read-only directories in it are no obstacle, if they are one's own. What is mounted in it stays.

    Raises:
        OSError: something in it cannot be removed, or another file system is mounted there. What
            could be removed before is gone.
    """
    with opened(directory) as parent:
        if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
            os.unlink(name, dir_fd=parent)
            return
        with _writable(parent, name) as top:
            _empty(top)
        os.rmdir(name, dir_fd=parent)


def move_entry(source: Path, name: str, target: Path, new_name: str) -> None:
    """Move an entry of one directory into another one of the same file system, as it is.

    Raises:
        OSError: it cannot be moved, or the new name is taken.
    """
    with opened(source) as here, opened(target) as there:
        try:
            os.lstat(new_name, dir_fd=there)
        except FileNotFoundError:
            pass
        else:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target / new_name))
        mode = os.lstat(name, dir_fd=here).st_mode
        if not stat.S_ISDIR(mode):
            os.rename(name, new_name, src_dir_fd=here, dst_dir_fd=there)
            return
        # A directory that changes its parent is written to itself: its `..` changes.
        with _writable(here, name) as moving:
            try:
                os.rename(name, new_name, src_dir_fd=here, dst_dir_fd=there)
            finally:
                os.fchmod(moving, stat.S_IMODE(mode))


@contextmanager
def opened(directory: Path) -> Iterator[int]:
    """A descriptor of a directory; a link in its place is an error.

    Raises:
        OSError: it cannot be opened, or is no directory.
    """
    descriptor = os.open(directory, _DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def mounted_below(directory: Path) -> bool:
    """Whether another file system is mounted at a directory or in it. Linux tells; others do not.

    The directory is named by its real path.
    """
    try:
        table = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return False
    places = (line.split(" ", 5)[4] for line in table.splitlines() if line.count(" ") >= 5)
    named = (_ESCAPED.sub(lambda match: chr(int(match[1], 8)), place) for place in places)
    return any(Path(place).is_relative_to(directory) for place in named)


@contextmanager
def _writable(parent: int, name: str) -> Iterator[int]:
    """The descriptor of a directory whose entries its owner may list and remove.

    Raises:
        OSError: it is a link, or another file system is mounted there; its mode is as before.
    """
    place = os.open(name, _PLACE, dir_fd=parent)
    try:
        if file_system(parent) != file_system(place):
            raise OSError(errno.EBUSY, "another file system is mounted there", name)
        status = os.fstat(place)
        if status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            # The way to what an O_PATH descriptor stands for, which may not even be readable.
            mode = stat.S_IMODE(status.st_mode) | stat.S_IRWXU
            Path(f"/proc/self/fd/{place}").chmod(mode)
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    finally:
        os.close(place)
    try:
        if not os.path.samestat(status, os.fstat(descriptor)):
            raise OSError(errno.ESTALE, "it is being changed by somebody else", name)
        yield descriptor
    finally:
        os.close(descriptor)


def _empty(top: int) -> None:
    """Remove every entry of a directory. Directories are first moved up into it, one level at a
    time, so that depth costs neither descriptors nor stack."""
    fresh = 0
    while entries := list(os.scandir(top)):
        taken = {entry.name for entry in entries}
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.name, dir_fd=top)
                continue
            with _writable(top, entry.name) as inner:
                for below in list(os.scandir(inner)):
                    if not below.is_dir(follow_symlinks=False):
                        os.unlink(below.name, dir_fd=inner)
                        continue
                    while (name := f".{fresh}") in taken:
                        fresh += 1
                    fresh += 1
                    with _writable(inner, below.name):
                        os.rename(below.name, name, src_dir_fd=inner, dst_dir_fd=top)
            os.rmdir(entry.name, dir_fd=top)


def file_system(descriptor: int) -> tuple[int, str]:
    """The device, and on Linux the mount, which tells a bind mount of the same device."""
    try:
        found = _MOUNT.search(Path(f"/proc/self/fdinfo/{descriptor}").read_text("utf-8"))
    except OSError:
        found = None
    return os.fstat(descriptor).st_dev, found[1] if found else ""
