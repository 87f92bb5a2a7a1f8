"""Whether a process that was written down still lives: numbers of processes are used again."""

from __future__ import annotations

import contextlib

import psutil


def is_same_process(pid: int, started: float) -> bool:
    """Whether a process of this number and start time (seconds since the epoch) lives."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        alive = process.status() != psutil.STATUS_ZOMBIE
        return alive and abs(process.create_time() - started) < 1.0
    return False


def own_start_time() -> float:
    """When this process was started, in seconds since the epoch."""
    return psutil.Process().create_time()
