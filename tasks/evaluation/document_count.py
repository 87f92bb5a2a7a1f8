"""How far an evaluation is, in documents."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

from tasks.processes.child import Send


class DocumentCount:
    """Counts finished requests and tells it as documents, a few times a second."""

    def __init__(self, tasks: list[Any], limit: int | None, send: Send, requests: int = 0) -> None:
        """`requests`: how many the documents make. 0: they are counted once they are built."""
        self._tasks = tasks
        self._send = send
        self._total = sum(min(len(task.eval_docs), limit or sys.maxsize) for task in tasks)
        self._requests = requests
        self._finished = 0
        self._due = 0.0
        self._tell(0)

    def advance(self, amount: int) -> None:
        """Count requests that have finished."""
        self._finished += amount
        if not self._requests:
            self._requests = sum(
                instance.repeats for task in self._tasks for instance in task.instances
            )
        now = time.monotonic()
        if now >= self._due or self._finished >= self._requests:
            self._due = now + 0.25
            self._tell(min(self._finished, self._requests) * self._total // self._requests)

    def _tell(self, done: int) -> None:
        with contextlib.suppress(OSError):
            self._send({"done": done, "total": self._total})
