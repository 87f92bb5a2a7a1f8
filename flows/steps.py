"""Running one step of a flow: named on the run page, one line in the log, errors as they are."""

from __future__ import annotations

import contextlib
import contextvars
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from prefect import Task, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.exceptions import MissingResult, ObjectAlreadyExists, ObjectNotFound
from prefect.results import ResultRecordMetadata

from merge_core.errors import StepError
from merge_core.plain_text import plain, plain_log
from merge_core.workers import all_at_once
from tasks.caching import ContentKey
from tasks.child_process import kill_children
from tasks.model_process import resolved_device_kind

R = TypeVar("R")

UNSTORED: dict[str, Any] = {"persist_result": False, "result_serializer": "json"}
"""Options of every flow: Prefect keeps no result of it, whatever a profile says. What it raises
unexpectedly Prefect writes down all the same, where nothing reads it; so never as a pickle."""

_log = plain_log("mergeflow.steps")
_LONGEST_SUBJECT = 200
_LEASE_SECONDS = 60.0
"""After this time the slot of a run that was killed is free again."""


def run_step(task: Task[..., R], *arguments: Any, subject: str = "", **options: Any) -> R:
    """Call a task and return its result; what it raised is raised here.

    Args:
        subject: what the step works on, for the run page and the log.

    Raises:
        TypeError: Prefect would keep what the task returns in a way of its own.
    """
    if task.persist_result is not False and not isinstance(task.cache_policy, ContentKey):
        raise TypeError(f"step '{task.name}' is neither cached by content nor without any record")
    subject = plain(subject, _LONGEST_SUBJECT)
    named = task.with_options(task_run_name=f"{task.name} {subject}".strip())
    started = time.monotonic()
    state = named(*arguments, **options, return_state=True)
    cached = state.name == "Cached"
    outcome = "cached" if cached else f"{time.monotonic() - started:.1f} s"
    if not state.is_completed():
        outcome = "failed"
    _log.info(
        "%s %s: %s",
        task.name,
        subject,
        outcome,
        extra={"step": task.name, "subject": subject, "outcome": outcome},
    )
    return answer_of(state)


def answer_of(state: State[R]) -> R:
    """What a run that was called here has answered; what it raised is raised.

    Raises:
        StepError: the Prefect server answers in its place. It does so by naming a file and a way
            to read it, pickle among them, so it is not asked further. Or it answered too late, and
            this run does not know its own answer.
    """
    if isinstance(state.data, ResultRecordMetadata):
        raise StepError(
            "the Prefect server says that this was done before, and where the answer is; only"
            " what a run answers itself is taken",
            where=f"run {state.state_details.flow_run_id or state.state_details.task_run_id}",
            mend="start the run again from the beginning: what it has computed is found again",
        )
    try:
        answer: R = state.result()
    except MissingResult:
        raise StepError(
            "the Prefect server answered so late that the result of this run did not reach the"
            " command, though the run ended",
            where=f"run {state.state_details.flow_run_id or state.state_details.task_run_id}",
            mend="run the same command again: what was computed is found again; if it happens"
            " often, the server has too much to do",
        ) from None
    return answer


def run_together(
    jobs: Sequence[Callable[[], R]], parallel: int, stop: Callable[[], None] = kill_children
) -> list[R]:
    """Results of jobs in their order, `parallel` at a time, each inside the current flow run.

    Args:
        stop: ends what the jobs do when one of them has failed, or a person interrupts; by default
            the child processes that they wait for.
    """
    if parallel == 1:
        return [job() for job in jobs]
    runs = [partial(contextvars.copy_context().run, job) for job in jobs]
    return all_at_once(lambda run: run(), runs, parallel, stop)


@contextlib.contextmanager
def device_slot(device: str) -> Iterator[None]:
    """Hold the one slot of this machine's GPU while the block runs; nothing for the CPU.

    The limit is created when missing, with one slot; a person may raise it on the server.
    """
    if resolved_device_kind(device) != "cuda":
        yield
        return
    with concurrency(ensure_gpu_limit(), occupy=1, lease_duration=_LEASE_SECONDS):
        yield


def ensure_gpu_limit() -> str:
    """Name of the concurrency limit of this machine's GPU, created when missing."""
    name = f"gpu:{socket.gethostname()}"
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            limit = GlobalConcurrencyLimitCreate(name=name, limit=1)
            with contextlib.suppress(ObjectAlreadyExists):  # another run was faster
                client.create_global_concurrency_limit(limit)
    return name
