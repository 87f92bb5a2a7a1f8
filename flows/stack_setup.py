"""What a Prefect server needs before it can run merges, and what an outage left behind on it.

Everything here may be done again at any time: what exists is kept, and what the user changed in the
UI stays changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
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
from prefect.events.actions import DoNothing, SendNotification
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import Cancelled, Crashed
from prefect.workers.process import ProcessWorker

from flows.approval import APPROVAL_FLOW, QUESTION_TAGS
from flows.deployments import DIRECTORY, WORK_POOL, create_deployment, read_deployments
from flows.steps import ensure_gpu_limit
from merge_core.yaml_files import load_yaml

NOTIFICATION_BLOCK = "mergeflow"
"""Name of the notification block that automations send to, whatever its type."""

_SUBJECT = "{{ flow.name }}: {{ flow_run.name }} is {{ flow_run.state.name }}"
_BODY = "{{ flow_run.state.message or '' }}\n\n{{ flow_run|ui_url }}"
_PAGE = 200


def set_up(client: SyncPrefectClient, directory: Path) -> list[str]:
    """Create limits, deployments and automations; the deployments' names.

    Args:
        directory: where relative paths in forms start.
    """
    ensure_gpu_limit()
    names = [create_deployment(client, entry, directory) for entry in read_deployments()]
    create_automations(client)
    return names


def create_work_pool(client: SyncPrefectClient) -> None:
    """The pool whose worker runs flows as processes of this machine."""
    template = ProcessWorker.get_default_base_job_template()
    pool = WorkPoolCreate(name=WORK_POOL, type=ProcessWorker.type, base_job_template=template)
    try:
        client.create_work_pool(pool)
    except ObjectAlreadyExists:
        return


def workers_online(client: SyncPrefectClient, since: datetime) -> set[str]:
    """Names of the workers that have reported to the pool after a moment."""
    workers = client.read_workers_for_work_pool(WORK_POOL)
    return {
        worker.name
        for worker in workers
        if worker.last_heartbeat_time and worker.last_heartbeat_time > since
    }


def end_dead_runs(client: SyncPrefectClient) -> list[FlowRun]:
    """Runs that a worker began and no process works on any more: they are marked as crashed.

    To be called while no worker runs. The mark frees their place in the concurrency limits.
    """
    at_work = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)
    dead = _runs_in(client, *at_work)
    for run in [*dead, *_questions(client, *at_work, StateType.PAUSED)]:
        message = "The stack was stopped while this run was at work; start it again, it resumes."
        client.set_flow_run_state(run.id, Crashed(message=message), force=True)
    return dead


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


def create_automations(client: SyncPrefectClient) -> None:
    """Those of `deployments/automations.yaml` that are missing; connects a notification block."""
    block = _notification_block(client)
    action: Any = DoNothing()
    if block is not None:
        action = SendNotification(block_document_id=block, subject=_SUBJECT, body=_BODY)
    for entry in load_yaml(DIRECTORY / "automations.yaml")["automations"]:
        wants = entry.pop("notify", False)
        if wants:
            entry["actions"] = [action]
        found = client.read_automations_by_name(entry["name"])
        if not found:
            client.create_automation(AutomationCore.model_validate(entry))
        elif wants and block and [each.type for each in found[0].actions] == [DoNothing().type]:
            # The server's own field is one that it does not take back.
            taken = set(AutomationCore.model_fields) - {"owner_resource"}
            known = found[0].model_dump(include=taken)
            connected = AutomationCore.model_validate({**known, "actions": [action]})
            client.update_automation(found[0].id, connected)


def _notification_block(client: SyncPrefectClient) -> UUID | None:
    for block in client.read_block_documents(include_secrets=False):
        kind = block.block_type
        if block.name == NOTIFICATION_BLOCK and kind is not None:
            schema = block.block_schema
            if schema is not None and "notify" in schema.capabilities:
                return block.id
    return None


def _runs_in(client: SyncPrefectClient, *states: StateType) -> list[FlowRun]:
    """Runs of this pool in some states."""
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[WORK_POOL]))
    return _find_runs(client, states, work_pool_filter=pool)


def _questions(client: SyncPrefectClient, *states: StateType) -> list[FlowRun]:
    """Runs that ask for approval: they belong to no pool, but to a run of one."""
    flow = FlowFilter(name=FlowFilterName(any_=[APPROVAL_FLOW]))
    ours = FlowRunFilterTags(all_=list(QUESTION_TAGS))
    return _find_runs(client, states, tags=ours, flow_filter=flow)


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


def main() -> None:
    """Set up the server that PREFECT_API_URL names; relative paths in forms start here."""
    with get_client(sync_client=True) as client:
        create_work_pool(client)
        print("\n".join(set_up(client, Path.cwd())))


if __name__ == "__main__":
    main()
