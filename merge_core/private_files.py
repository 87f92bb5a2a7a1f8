"""Files and directories that only their owner may read, whatever the process's umask is."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

PRIVATE_DIRECTORY = 0o700
PRIVATE_FILE = 0o600


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
