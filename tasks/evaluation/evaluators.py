"""The processes that evaluate the checkpoints of one run.

A process serves every evaluation that it fits. It ends after any fault, and with the run.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Self

from merge_core.records import SourceCheckpoint
from tasks.evaluation.suite import Suite, suite_digest
from tasks.evaluation.worker import (
    CannotForkError,
    Evaluated,
    Message,
    Purpose,
    Worker,
    WrittenTexts,
    purpose_of,
    tokenizer_of,
)

Isolation = Literal["alone", "first", "shared"]
"""How fresh the process has to be that evaluates a checkpoint. `alone`: it evaluates nothing else.
`first`: nothing before. `shared`: others may have been evaluated in forks of it."""

CAN_FORK = sys.platform == "linux"
"""Whether processes that a fork leaves behind can be found, to be ended. Where they cannot, each
evaluation has a process of its own."""


class Evaluators:
    """A run's evaluation processes. Safe to use from several threads."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._idle: list[Worker] = []
        self._lock = Lock()
        # A process ends with the thread that started it; this one lives as long as they may.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="evaluators")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._starter.shutdown()

    def close(self, but: Suite | None = None) -> None:
        """End the processes that wait; what is evaluated after this starts others.

        Args:
            but: a suite whose processes may wait on.
        """
        kept = but and suite_digest(but)
        with self._lock:
            idle = [worker for worker in self._idle if worker.purpose.suite_digest != kept]
            self._idle = [worker for worker in self._idle if worker not in idle]
        for worker in idle:
            worker.end()

    def begin(self, suite: Suite, device: str, threads: int | None, count: int = 1) -> None:
        """Start processes now that will be needed soon, until this many wait unused."""
        purpose = purpose_of(suite, device, threads)
        with self._lock:
            waiting = [worker for worker in self._idle if worker.purpose == purpose]
        with contextlib.suppress(OSError):  # whoever needs it is told
            for _ in range(count - sum(not worker.evaluated for worker in waiting)):
                self._put_back(self._started(suite, purpose))

    @contextlib.contextmanager
    def evaluated(
        self,
        checkpoint: SourceCheckpoint,
        suite: Suite,
        device: str,
        threads: int | None,
        listen: Callable[[Message], None],
        isolation: Isolation,
        batch_size: int | None,
        **looks: Any,
    ) -> Iterator[tuple[Evaluated, bool]]:
        """One checkpoint's evaluation, with its log for as long as the block lasts; and whether
        other checkpoints were evaluated before in the same process.

        `looks` is as `Worker.evaluate` takes it. Raises OSError when no process can be started.
        """
        isolation = isolation if CAN_FORK else "alone"
        purpose = purpose_of(suite, device, threads)
        worker = self._taken(suite, purpose, isolation, tokenizer_of(checkpoint))
        try:
            warm = worker.evaluated > 0
            try:
                done = self._ask(worker, checkpoint, suite, listen, isolation, batch_size, looks)
            except CannotForkError:
                worker.end()
                worker, warm = self._started(suite, worker.purpose), False
                done = self._ask(worker, checkpoint, suite, listen, "alone", batch_size, looks)
            yield done, warm
        except BaseException:
            worker.end()
            raise
        faulty = "result" not in done.messages or done.end.code != 0
        if faulty or worker.has_ended():
            worker.end()
        else:
            self._put_back(worker)

    def texts(
        self,
        suite: Suite,
        device: str,
        threads: int | None,
        ids: Sequence[Sequence[str]],
        most_bytes: int,
    ) -> WrittenTexts:
        """The text of documents, by a process that waits, or by one that is started for it.

        The arguments are as `begin` and `Worker.texts` take them.
        """
        purpose = purpose_of(suite, device, threads)
        with self._lock:
            waiting = [each for each in self._idle if each.purpose == purpose]
            worker = next((each for each in waiting if not each.has_ended()), None)
            if worker:
                self._idle.remove(worker)
        try:
            worker = worker or self._started(suite, purpose)
        except OSError as error:
            return WrittenTexts(f"no process can be started for it ({error.strerror})")
        try:
            return worker.texts(ids, most_bytes, suite.timeout_minutes)
        except OSError as error:
            return WrittenTexts(error.strerror or str(error))
        finally:
            worker.end()

    def _ask(
        self,
        worker: Worker,
        checkpoint: SourceCheckpoint,
        suite: Suite,
        listen: Callable[[Message], None],
        isolation: Isolation,
        batch_size: int | None,
        looks: Mapping[str, Any],
    ) -> Evaluated:
        return worker.evaluate(
            checkpoint,
            listen,
            here=isolation == "alone",
            minutes=suite.timeout_minutes,
            batch_size=batch_size,
            **looks,
        )

    def _taken(
        self, suite: Suite, purpose: Purpose, isolation: Isolation, tokenizer: str
    ) -> Worker:
        """An idle process, the busiest that may be used; else a new one."""
        with self._lock:
            for worker in [worker for worker in self._idle if worker.has_ended()]:
                self._idle.remove(worker)
                worker.end()
            fit = [
                worker
                for worker in self._idle
                if worker.purpose == purpose
                and (
                    not worker.evaluated
                    or (isolation == "shared" and worker.tokenizer == tokenizer)
                )
            ]
            if fit:
                chosen = max(fit, key=lambda worker: worker.evaluated)
                self._idle.remove(chosen)
                return chosen
        return self._started(suite, purpose)

    def _started(self, suite: Suite, purpose: Purpose) -> Worker:
        return self._starter.submit(Worker, suite, purpose, self._scratch).result()

    def _put_back(self, worker: Worker) -> None:
        with self._lock:
            self._idle.append(worker)
