"""A merge's groups computed by several processes of this machine."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock
from typing import Any

from merge_core.distributed.job import Executor, MergeJob
from merge_core.errors import MergeflowError, StepError, error_from
from merge_core.files.private import make_private_directory
from merge_core.homes.home import Home
from merge_core.runtime.processors import processors
from tasks.processes.child import kill_children, run_child
from tasks.processes.model import last_lines
from tasks.processes.secret_variables import without_secrets

_MOST_DEATHS = 3
"""A group at which this many workers have died is not tried again."""


class Processes(Executor):
    """`count` child processes, which end with this one. One that dies is replaced, and the first
    free process takes over its group."""

    whole_shards = False

    def __init__(self, count: int, logs: Path) -> None:
        self.workers = count
        self._logs = logs

    def run(self, directory: Path, job: MergeJob) -> None:
        count = min(self.workers or 1, len(job.groups))
        crew = _Crew(directory, job, count, self._logs)
        make_private_directory(self._logs)
        with ThreadPoolExecutor(count) as pool:
            futures = [pool.submit(crew.keep_working, slot) for slot in range(count)]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                crew.stop()
                raise


class _Crew:
    """The children of one merge."""

    def __init__(self, directory: Path, job: MergeJob, count: int, logs: Path) -> None:
        self._job = {
            "directory": str(directory),
            "attempt": job.attempt,
            "device": job.device,
            "threads": job.threads or max(1, processors() // count),
        }
        self._total = len(job.groups)
        self._logs = logs
        self._lock = Lock()
        self._deaths: dict[int | None, int] = {}
        self._stopped = False

    def stop(self) -> None:
        """Kill them all, and start none again."""
        self._stopped = True
        kill_children()

    def keep_working(self, slot: int) -> None:
        """Have a child work in this slot, and another in its place when it dies.

        Raises:
            MergeflowError: the child's own error.
            StepError: several died at the same group.
        """
        log = self._logs / f"merge-worker-{os.getpid()}-{slot}.log"
        while not self._stopped:
            messages = _Messages()
            end = run_child(
                "tasks.processes.merge_worker",
                self._job | {"slot": slot},
                log=log,
                timeout=math.inf,
                environment=without_secrets(os.environ, Home.discover()),
                on_message=messages.take,
            )
            if messages.error is not None:
                raise messages.error
            if messages.finished:
                log.unlink(missing_ok=True)
                return
            if not self._stopped:
                self._count_death(messages.group, end.code, log)

    def _count_death(self, group: int | None, code: int | None, log: Path) -> None:
        with self._lock:
            self._deaths[group] = self._deaths.get(group, 0) + 1
            deaths = self._deaths[group]
        if deaths < _MOST_DEATHS:
            return
        place = "before its first group" if group is None else f"at group {group + 1}"
        said = last_lines(log)
        raise StepError(
            f"{deaths} worker processes died {place} of {self._total}, the last with exit status"
            f" {code}",
            details=[f"    {line}" for line in said],
            where=str(log),
            mend="run the same command again: what is finished is kept. If the system killed them"
            " for memory (status -9), use fewer processes or threads",
        )


class _Messages:
    """The answer of a child."""

    def __init__(self) -> None:
        self.group: int | None = None
        self.finished = False
        self.error: MergeflowError | None = None

    def take(self, message: dict[str, Any]) -> None:
        """Note one message."""
        self.group = message.get("group", self.group)
        self.finished = message.get("finished", self.finished)
        if "error" in message:
            self.error = error_from(message["error"])
