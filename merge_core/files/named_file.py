"""Opens files that a person names on a command line, in a recipe, a suite or a form.

What waits for a writer or never ends is told at once. `untrusted` is for files of a checkpoint.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

_KINDS = (
    (stat.S_ISFIFO, "it is a FIFO, not a file"),
    (stat.S_ISSOCK, "it is a socket, not a file"),
    (stat.S_ISCHR, "it is a device, not a file"),
    (stat.S_ISBLK, "it is a device, not a file"),
)
_OF_THIS_PROCESS = ("/dev/fd/", "/proc/self/fd/", "/dev/stdin")
"""What a shell opened for it: `<(COMMAND)`, or a pipe. Somebody writes there already."""


def open_named(path: Path) -> BufferedReader:
    """A file to read from its beginning.

    Raises:
        OSError: it cannot be opened, or is no file; `strerror` says it for a person.
    """
    _check_kind(path, path.stat())  # a socket cannot be opened, so its status says what it is
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check_kind(path, os.fstat(descriptor))
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_named(path: Path, count: int) -> bytes:
    """The first bytes of a file, at most `count`.

    Raises:
        OSError: as for `open_named`.
    """
    with open_named(path) as file:
        return file.read(count)


def _check_kind(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a directory, not a file")
    if stat.S_ISFIFO(status.st_mode) and str(path).startswith(_OF_THIS_PROCESS):
        return
    for is_one, said in _KINDS:
        if is_one(status.st_mode):
            raise OSError(errno.EINVAL, said)
