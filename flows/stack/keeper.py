"""Ends a local stack when `mergeflow up` is gone, however it went.

Run as `python -m flows.stack.keeper INSTANCE`; standard input is the lifeline, which closes with
the process that holds its other end.
"""

from __future__ import annotations

import os
import signal
import sys

from flows.stack.processes import end_members


def main() -> None:
    """Wait for the lifeline to close, then end the processes that are left of the stack."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(sys.stdin.fileno(), 1024):
        pass
    end_members(sys.argv[1])


if __name__ == "__main__":
    main()
