"""Where the time of a merge went."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PHASES = ("read", "compute", "write", "hash", "wait")
"""Read and write are the system calls; compute is everything else that workers do, flushing the
journal's share of the data included; hash is reading the result back and hashing it; wait is
workers being idle, at the end or to let hashing catch up, and the last flush to disk."""


class Timings:
    """Seconds of all threads together, by phase. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(PHASES, 0.0)

    def add(self, phase: str, seconds: float) -> None:
        """Count some seconds of one thread."""
        with self._lock:
            self._seconds[phase] += seconds

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Count the time that the body takes."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(phase, time.perf_counter() - started)

    def seconds(self, phase: str) -> float:
        """The seconds counted so far."""
        with self._lock:
            return self._seconds[phase]

    def __str__(self) -> str:
        return ", ".join(f"{phase} {self.seconds(phase):.1f} s" for phase in PHASES)
