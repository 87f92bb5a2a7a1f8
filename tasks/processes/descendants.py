"""What a process that runs other people's code leaves behind: taken over, and ended.

A sub-reaper becomes the parent of its descendants' orphans, whatever sessions they made for
themselves, so none can hide from it. Sub-reapers are Linux's; elsewhere nothing is found here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def take_over_orphans() -> None:
    """Make this process the parent of what its descendants leave behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(number: signal.Signals) -> None:
    """Have the kernel send a signal here when the thread that started this process ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)


def end_descendants() -> None:
    """Kill children until none is left: those of a killed one become children here."""
    while True:
        for process in _children():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    """Numbers of this process's children; none where there is no /proc."""
    found, own = [], os.getpid()
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # After the name, which may hold anything: state, parent, ...
            fields = (directory / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            if int(fields[1]) == own:
                found.append(int(directory.name))
    return found
