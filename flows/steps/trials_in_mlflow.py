"""The trials of a search in MLflow while it runs, by a thread beside it that stops nothing."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Mapping, Sequence
from typing import Self

from merge_core.errors import MergeflowError
from merge_core.text.plain import plain_log
from tasks.search.record import SearchRun, record_search
from tasks.search.trial import Trial

_log = plain_log("mergeflow")
_PATIENCE = 30.0
"""Seconds that the end of a search waits for a server that is just being written to."""


class TrialsInMlflow:
    """Writes what it was told and what is not there yet. A server that does not answer is told of
    once, and asked again with the next trial."""

    def __init__(self, run: SearchRun) -> None:
        self._run = run
        self._trials: list[Trial] = []
        self._changed = threading.Condition()
        self._written = 0
        self._is_over = self._was_told = False
        context = contextvars.copy_context()  # the thread's words are the flow run's
        self._thread = threading.Thread(
            target=context.run, args=(self._write_on,), name="trials-in-mlflow", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify()
        self._thread.join(_PATIENCE)

    def note(self, trial: Trial) -> None:
        """A trial is finished."""
        with self._changed:
            self._trials.append(trial)
            self._changed.notify()

    def end(self, trials: Sequence[Trial], files: Mapping[str, str | bytes]) -> None:
        """The search is finished: what is still missing is written, and its pages."""
        self._stop()
        if not self._thread.is_alive():
            self._write(trials, files, is_over=True)

    def _write_on(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_over or len(self._trials) > self._written)
                if self._is_over:
                    return
                known = list(self._trials)
            self._written = len(known)
            self._write(known, {}, is_over=False)

    def _write(
        self, trials: Sequence[Trial], files: Mapping[str, str | bytes], *, is_over: bool
    ) -> None:
        try:
            record_search(self._run, trials, files, is_over=is_over)
        except MergeflowError as error:
            if is_over or not self._was_told:
                self._was_told = True
                again = "the same command writes them" if is_over else "they are written later"
                _log.warning(
                    "warning: MLflow did not take the search's trials, %s: %s", again, error.what
                )
