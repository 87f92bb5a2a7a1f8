"""How a long step says how far it is, to whoever listens: a terminal, a log, a Prefect run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class ProgressEvent:
    """`done` of `total` in `unit` ("bytes", "tensors", "documents") of the named stage."""

    stage: str
    done: int
    total: int
    unit: str = "bytes"


Progress = Callable[[ProgressEvent], None]


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
