"""Running one step of a flow: named on the run page, one line in the log, errors as they are."""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import httpx
from prefect import Flow, Task
from prefect.client.schemas.objects import State
from prefect.results import ResultRecordMetadata
from prefect.settings import PREFECT_API_URL

from merge_core.errors import StepError
from merge_core.runtime.threads import all_at_once
from merge_core.text.plain import plain, plain_log
from tasks.caching.content_task import ContentKey
from tasks.processes.child import kill_children

R = TypeVar("R")

UNSTORED: dict[str, Any] = {"persist_result": False, "result_serializer": "json"}
"""Options of every flow: Prefect keeps no result of it, whatever a profile says. What it raises
unexpectedly Prefect writes down all the same, where nothing reads it; so never as a pickle."""

_endings: contextvars.ContextVar[list[State[Any]] | None] = contextvars.ContextVar(
    "endings", default=None
)
"""Where the flow that is being called here says how it ends."""

_log = plain_log("mergeflow.steps")
_LONGEST_SUBJECT = 200


def run_step(task: Task[..., R], *arguments: Any, subject: str = "", **options: Any) -> R:
    """Call a task and return its result; its exception is raised here.

    Args:
        subject: the thing that the step works on, for the run page and the log.

    Raises:
        TypeError: Prefect would keep what the task returns in a way of its own.
    """
    policy = task.cache_policy
    if isinstance(policy, ContentKey):
        task = task.with_options(cache_policy=policy.of(task.fn, *arguments, **options))
    elif task.persist_result is not False:
        raise TypeError(f"step '{task.name}' is neither cached by content nor without any record")
    subject = plain(subject, _LONGEST_SUBJECT)
    named = task.with_options(task_run_name=f"{task.name} {subject}".strip())
    started = time.monotonic()
    state: State[R] = named(*arguments, **options, return_state=True)
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


def end_with(state: State[R]) -> State[R]:
    """The state that a flow ends in, noted for whoever called the flow in this process."""
    endings = _endings.get()
    if endings is not None:
        endings.append(state)
    return state


def call_flow(flow: Flow[..., Any], *arguments: Any) -> Any:
    """Call a flow in this process and return its answer; its exception is raised here.

    When the server's word on the last state comes too late, Prefect's client asks again. It is told
    then that the run is in that state already, and by the server, which has no answer of ours. So
    the flow's own `end_with` counts where the server says no more than what kind of end it was, or
    nothing at all.

    Raises:
        StepError: as `answer_of`; or the server was not there when the flow needed it.
    """
    endings: list[State[Any]] = []
    token = _endings.set(endings)
    try:
        state: State[Any] = flow(*arguments, return_state=True)  # type: ignore[assignment]
        if state.data is None and endings and endings[-1].type == state.type:
            state = endings[-1]
        return answer_of(state)
    except httpx.TransportError as error:
        if not _is_of_prefect(error):
            raise
        said = f"the Prefect server does not answer ({type(error).__name__})"
        if not endings:
            raise StepError(
                said,
                where=PREFECT_API_URL.value(),
                mend="see that it runs and is not overloaded, and run the same command again: what"
                " was computed is found again",
            ) from error
        _log.warning("%s, so its page does not tell how this run ended", said)
        return answer_of(endings[-1])
    finally:
        _endings.reset(token)


def _is_of_prefect(error: httpx.TransportError) -> bool:
    with contextlib.suppress(RuntimeError):  # an error without a request
        return str(error.request.url).startswith(PREFECT_API_URL.value() or "http")
    return False


def answer_of(state: State[R]) -> R:
    """The answer of a run that was called here; its exception is raised.

    Raises:
        StepError: the Prefect server answers in its place. It does so by naming a file and a way
            to read it, pickle among them, so it is not asked further. Or its answer is that the run
            has ended, and no more.
    """
    if state.data is None and (state.is_completed() or state.is_failed()):
        raise StepError(
            f"the Prefect server says that this run ended as {plain(state.name)}, and not what came"
            " of it" + (f": {plain(state.message)}" if state.message else ""),
            where=f"run {state.state_details.flow_run_id or state.state_details.task_run_id}",
            mend="run the same command again: what was computed is found again",
        )
    if isinstance(state.data, ResultRecordMetadata):
        raise StepError(
            "the Prefect server says that this was done before, and where the answer is; only"
            " what a run answers itself is taken",
            where=f"run {state.state_details.flow_run_id or state.state_details.task_run_id}",
            mend="start the run again from the beginning: what it has computed is found again",
        )
    answer: R = state.result()
    return answer


def run_together(jobs: Sequence[Callable[[], R]], parallel: int) -> list[R]:
    """Results of jobs in their order, `parallel` at a time, each inside the current flow run.

    When one of them has failed, or a person interrupts, the child processes that they wait for end.
    """
    if parallel == 1:
        return [job() for job in jobs]
    return all_at_once(lambda job: job(), jobs, parallel, kill_children)
