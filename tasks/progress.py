"""Progress of long steps: a progress artifact on the Prefect run's page, and whoever listens here.

Steps run inside Prefect tasks, terminals belong to the command line: `listening` connects the two
without either knowing the other.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import re
import time
from collections.abc import Iterator
from typing import Any

from merge_core.progress import WAITS, Progress, ProgressEvent
from merge_core.text.plain import plain_log

_FIRST_AFTER = 2.0
_EVERY = 1.0
_LOG_EVERY = 30.0

_listeners: list[Progress] = []
_log = plain_log("mergeflow.progress")


@contextlib.contextmanager
def listening(listener: Progress) -> Iterator[None]:
    """Pass the progress of every step inside the block to `listener` too."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def prefect_progress(label: str) -> Progress:
    """A listener for one step of a Prefect run.

    Steps that are done within two seconds leave no artifact; longer ones update theirs once a
    second and leave a log line now and then, for runs that nobody watches.
    """
    artifact = _ProgressArtifact(label)

    def listen(event: ProgressEvent) -> None:
        for listener in list(_listeners):
            listener(event)
        artifact.update(event)

    return listen


class _ProgressArtifact:
    """The progress bar of one step on the page of its run. Never a reason for a step to fail."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._key = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
        self._due = self._log_due = math.inf
        self._id: Any = None
        # Steps hash and merge in threads of their own, which do not know the run they belong to.
        self._run = contextvars.copy_context()

    def update(self, event: ProgressEvent) -> None:
        now = time.monotonic()
        if self._due == math.inf:
            self._due, self._log_due = now + _FIRST_AFTER, now + _LOG_EVERY
        finished = event.done >= event.total
        if now < self._due and not (finished and self._id):
            return
        self._due = now + _EVERY
        percent = 100.0 * event.done / max(event.total, 1)
        so_far = f": {event.done:,} of {event.total:,} {event.unit}"
        if event.unit == WAITS:
            so_far = ""
        with contextlib.suppress(Exception):
            self._run.copy().run(self._show, percent, event.stage + so_far)
        if now >= self._log_due:
            self._log_due = now + _LOG_EVERY
            _log.info("%s%s", event.stage, so_far and f": {percent:.0f} %")

    def _show(self, percent: float, description: str) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        if self._id is None:
            self._id = create_progress_artifact(percent, key=self._key, description=description)
        else:
            update_progress_artifact(self._id, percent, description=description)
