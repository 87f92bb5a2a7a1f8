"""Runs that an outage left behind: those that nobody works on any more, and those that were missed.

Without this a dead run would hold its place in the concurrency limits, and the next ones would wait
or be cancelled, until Prefect misses its heartbeat: five minutes, and for ever where the run was
`Pending` and had sent none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Cancelled, Crashed

from flows.approve import APPROVAL_FLOW, QUESTION_TAGS
from flows.stack.deployments import WORK_POOL
from flows.stack.processes import flow_runs_at_work
from flows.stack.setup import workers_online

_AT_WORK = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)
_PAGE = 200
_WORKER_SILENCE = timedelta(minutes=5)
"""After which a worker is taken to be off; they report every 30 s."""

START_PATIENCE = timedelta(minutes=1)


def end_dead_runs(client: SyncPrefectClient) -> list[FlowRun]:
    """Runs that a worker began and no process works on any more: they are marked as crashed.

    To be called while no worker runs. The mark frees their place in the concurrency limits.
    """
    dead = _runs_in(client, *_AT_WORK)
    for run in [*dead, *_questions(client)]:
        _give_up(client, run, "The stack was stopped while this run was at work")
    return dead


def end_abandoned_runs(
    client: SyncPrefectClient,
    instance: str,
    workers: Collection[str],
    start_patience: timedelta = START_PATIENCE,
) -> list[FlowRun]:
    """Runs that died with their worker, while others may be at work: they are marked as crashed.

    A run whose process lives is left alone: it outlived its worker and goes on. Nothing is done as
    long as other workers report to the pool, since their processes cannot be seen from here; the
    automation for dead runs is there for those.

    Args:
        instance: the stack, as `flows.stack.processes` marks its processes.
        workers: names of the stack's own workers.
        start_patience: how long a worker may take from claiming a run to its process.
    """
    recently = datetime.now(UTC) - _WORKER_SILENCE
    if not workers_online(client, since=recently) <= set(workers):
        return []
    found = _runs_in(client, *_AT_WORK)
    alive = flow_runs_at_work(instance)
    dead = {
        run.id: run
        for run in found
        if run.id not in alive and _is_stuck(client, run, start_patience)
    }
    # The questions first: whatever stops us here, they are found again with their run.
    for question in _questions(client) if dead else []:
        asking = question.parent_task_run_id
        if asking and client.read_task_run(asking).flow_run_id in dead:
            _give_up(client, question, "The run that asked has ended")
    for run in dead.values():
        _give_up(client, run, "Its worker ended while this run was at work")
    return list(dead.values())


def drop_missed_runs(client: SyncPrefectClient) -> int:
    """Of the scheduled runs that an outage made late, keep each deployment's latest alone."""
    late: dict[UUID | None, list[FlowRun]] = defaultdict(list)
    now = datetime.now(UTC)
    for run in _runs_in(client, StateType.SCHEDULED):
        if run.auto_scheduled and run.expected_start_time and run.expected_start_time < now:
            late[run.deployment_id].append(run)
    dropped = 0
    for runs in late.values():
        for run in sorted(runs, key=lambda each: each.expected_start_time or now)[:-1]:
            message = "Missed while the stack was down; the latest missed run stands for it."
            client.set_flow_run_state(run.id, Cancelled(message=message), force=True)
            dropped += 1
    return dropped


def _is_stuck(client: SyncPrefectClient, run: FlowRun, start_patience: timedelta) -> bool:
    """Whether a run without a process is still in the very state in which it was found before.

    One that has begun or ended since is in another: it says that it ends before its process goes.
    """
    state = client.read_flow_run(run.id).state
    if state is None or run.state is None or state.id != run.state.id:
        return False
    return not state.is_pending() or datetime.now(UTC) - state.timestamp > start_patience


def _give_up(client: SyncPrefectClient, run: FlowRun, why: str) -> None:
    message = f"{why}; start it again, it resumes."
    client.set_flow_run_state(run.id, Crashed(message=message), force=True)


def _runs_in(client: SyncPrefectClient, *states: StateType) -> list[FlowRun]:
    """Runs of this pool in some states."""
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[WORK_POOL]))
    return _find_runs(client, states, work_pool_filter=pool)


def _questions(client: SyncPrefectClient) -> list[FlowRun]:
    """Runs that ask for approval: they belong to no pool, but to a run of one."""
    flow = FlowFilter(name=FlowFilterName(any_=[APPROVAL_FLOW]))
    ours = FlowRunFilterTags(all_=list(QUESTION_TAGS))
    return _find_runs(client, (*_AT_WORK, StateType.PAUSED), tags=ours, flow_filter=flow)


def _find_runs(
    client: SyncPrefectClient,
    states: Sequence[StateType],
    tags: FlowRunFilterTags | None = None,
    **filters: Any,
) -> list[FlowRun]:
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states)))
    wanted = FlowRunFilter(state=state, tags=tags)
    found: list[FlowRun] = []
    while True:
        page = client.read_flow_runs(
            flow_run_filter=wanted, limit=_PAGE, offset=len(found), **filters
        )
        found += page
        if len(page) < _PAGE:
            return found
