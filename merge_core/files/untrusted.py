"""Opens a stranger's files: plain files in the checkpoint's own directory, and nothing else.

A link may lead anywhere, a FIFO waits for ever, a device never ends. The only links that are
followed out of a directory are the Hub cache's own, from a snapshot to its repository's blobs.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from merge_core.errors import CheckpointError, unreadable
from merge_core.findings import printable

_LONGEST_NAME = 255
"""Bytes, the limit of every usual file system."""
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_inside(root: Path, path: Path) -> None:
    """Refuse links out of the checkpoint, but for the Hub cache's own snapshot -> blobs links.

    Args:
        root: the checkpoint's directory, resolved.

    Raises:
        CheckpointError: the path leads out of it, or in a circle.
    """
    try:
        target = path.resolve()
    except (OSError, RuntimeError):
        raise _refused(path, "is a link that leads nowhere") from None
    hub_blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else None
    if not target.is_relative_to(root) and (hub_blobs is None or target.parent != hub_blobs):
        raise CheckpointError(
            f"{printable(path.name)} is a link that leaves the checkpoint's directory",
            where=str(path.parent),
            mend="replace the link by the file, if you trust it",
        )


def check_plain(root: Path, path: Path) -> None:
    """Refuse what is not a plain file inside the checkpoint, without opening it.

    Args:
        root: the checkpoint's directory, resolved.

    Raises:
        CheckpointError: it is not there, leads elsewhere, or is no file.
    """
    check_inside(root, path)
    try:
        status = path.stat()
    except OSError as error:
        raise unreadable(path, error) from error
    _check_kind(path, status)


def open_plain(path: Path) -> int:
    """A descriptor to read a file with; the caller closes it. Never waits for a writer.

    Raises:
        CheckpointError: it cannot be opened, or is no plain file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        _check_kind(path, os.fstat(descriptor))
    except CheckpointError:
        os.close(descriptor)
        raise
    return descriptor


def read_plain(path: Path, limit: int) -> bytes:
    """The whole content of a file that lies in a checkpoint's directory.

    Raises:
        CheckpointError: a link out of the directory, no plain file, unreadable, or longer than
            `limit` bytes.
    """
    content = read_beginning(path, limit + 1)
    if len(content) > limit:
        raise _refused(path, f"is too large: more than {limit >> 20} MiB")
    return content


def read_beginning(path: Path, count: int) -> bytes:
    """The first bytes of a file that lies in a checkpoint's directory, at most `count`.

    Raises:
        CheckpointError: a link out of the directory, no plain file, or unreadable.
    """
    check_inside(path.parent.resolve(), path)
    with os.fdopen(open_plain(path), "rb") as file:
        try:
            return file.read(count)
        except OSError as error:
            raise unreadable(path, error) from error


def is_file_name(name: str) -> bool:
    """Whether a text from a stranger's file can be shown, and names a file of its directory."""
    return (
        name.isprintable()
        and "/" not in name
        and name not in ("", ".", "..")
        and len(name.encode()) <= _LONGEST_NAME
    )


def _check_kind(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((word for test, word in _KINDS if test(status.st_mode)), "something else")
        raise _refused(path, f"is {kind}, not a file")


def _refused(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{printable(path.name)} {what}",
        where=str(path.parent),
        mend="do not trust this checkpoint; fetch it again from its publisher",
    )
