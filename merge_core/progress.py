"""How a long step says how far it is, to whoever listens: a terminal, a log, a Prefect run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class ProgressEvent:
    """`done` of `total` in `unit` ("bytes", "tensors", "documents") of the named stage.

    In the unit `WAITS` nothing is done but waiting, for as long as it may take.
    """

    stage: str
    done: int
    total: int
    unit: str = "bytes"


WAITS = "waits"

Progress = Callable[[ProgressEvent], None]


class Stopped(Exception):  # noqa: N818 - not an error: another thread has failed, or a person
    """What one thread was doing is of no use any more."""


class SharedProgress:
    """Progress of several steps at once, in threads: told one at a time, and a way to end them."""

    def __init__(self, listener: Progress | None) -> None:
        self._listener = listener
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def __call__(self, event: ProgressEvent) -> None:
        """Pass an event on.

        Raises:
            Stopped: the step that reports this is to end.
        """
        if self._stopped.is_set():
            raise Stopped
        if self._listener:
            with self._lock:
                self._listener(event)

    def stop(self) -> None:
        """End every step at its next report: steps report several times a second."""
        self._stopped.set()


class Throttle:
    """Passes on the first, the last and at most a few events a second in between."""

    def __init__(self, listener: Progress | None, stage: str, total: int, unit: str = "bytes"):
        self._listener = listener
        self._stage = stage
        self._total = total
        self._unit = unit
        self._done = 0
        self._due = 0.0

    def advance(self, amount: int) -> None:
        """Add to what is done. Call under the caller's own lock when several threads share it."""
        self._done += amount
        now = time.monotonic()
        if self._listener and (now >= self._due or self._done >= self._total):
            self._due = now + 0.25
            self._listener(ProgressEvent(self._stage, self._done, self._total, self._unit))
