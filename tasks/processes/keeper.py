"""Stands between this program and a child that runs other people's code; leaves nothing of it.

Run as `python -m tasks.processes.keeper SENDER PARENT MODULE` by `tasks.processes.child` alone. The
keeper starts `python -m MODULE SENDER KEEPER` and waits. Whatever the child starts, in whatever
session or process group, becomes the keeper's when its own parent ends: the keeper is a sub-reaper.
Once the child has ended, or the keeper is told to stop, it kills all of them and ends as the child
did.

Sub-reapers are Linux's. Elsewhere a process that made a session of its own can stay behind.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys

from tasks.processes.descendants import die_with_parent, end_descendants, take_over_orphans
from tasks.processes.own_python import module_command


def main() -> None:
    """Keep one child; end with its exit status, or by the signal that ended it."""
    sender, parent, module = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    awaited = {signal.SIGTERM, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    take_over_orphans()
    die_with_parent(signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
    keeper = os.getpid()
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, awaited)
        os.setsid()
        os.execv(sys.executable, module_command(module, sender, str(keeper)))
    os.close(int(sender))  # else the parent would wait for messages from here
    os.close(0)
    status = None
    while status is None:
        if signal.sigwait(awaited) == signal.SIGTERM:
            status = int(signal.SIGKILL)
        else:
            status = _status_of(child)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    end_descendants()
    _end_as(status)


def _status_of(child: int) -> int | None:
    """Reap ended processes, orphans too; the child's wait status once it is among them."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            if ended[0] == child:
                return ended[1]
    return None


def _end_as(status: int) -> None:
    number = status & 0x7F
    if number:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
