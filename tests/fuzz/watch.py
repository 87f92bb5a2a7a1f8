"""Sees every file that a case opens and everything else it does outside its own memory."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_LOOKS = ("os.listdir", "os.scandir")
_FORBIDDEN = (
    *(
        "os.",
        "shutil.",
        "subprocess.",
        "socket.",
        "ctypes.",
        "pickle.",
        "tempfile.",
        "urllib.",
        "sqlite3.",
    ),
    *("pty.", "signal.", "mmap.", "fcntl.", "http.", "ftplib.", "smtplib.", "webbrowser."),
)


class Watch:
    """An audit hook: active within `over`, and there for as long as the process lives."""

    def __init__(self, directory: Path) -> None:
        self._allowed = str(directory.resolve())
        self._active = False
        self.opened = 0
        """Files of the directory that were opened for reading."""
        self.offences: list[str] = []
        """What was done that reading a checkpoint must not do."""
        codecs.lookup("unicode_escape")  # python opens a file of its own for it, once
        sys.addaudithook(self._see)

    @contextmanager
    def over(self) -> Iterator[None]:
        """Watch while the block runs."""
        self._active = True
        try:
            yield
        finally:
            self._active = False

    def _see(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self._active:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int):
                return  # a descriptor that was opened, and seen, before
            if not self._is_inside(path) or (isinstance(flags, int) and flags & _WRITES):
                self.offences.append(f"open {path!r} with flags {flags}")
            self.opened += 1
        elif event in _LOOKS:
            if not self._is_inside(arguments[0]):
                self.offences.append(f"{event} {arguments[0]!r}")
        elif event.startswith(_FORBIDDEN):
            self.offences.append(f"{event} {arguments!r}"[:300])

    def _is_inside(self, path: object) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        target = os.path.realpath(os.fsdecode(path))
        return target == self._allowed or target.startswith(self._allowed + os.sep)
