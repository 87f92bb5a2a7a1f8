"""Setting up a real Prefect server for merges, again and again, and after an outage."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import get_client
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.states import Pending, Running

from flows.environment.starting_directory import VARIABLE
from flows.gpu_slot import ensure_gpu_limit
from flows.stack.automations import NOTIFICATION_BLOCK, create_automations
from flows.stack.deployments import WORK_POOL, create_deployment, read_deployments
from flows.stack.interrupted_runs import (
    drop_missed_runs,
    end_abandoned_runs,
    end_dead_runs,
)
from flows.stack.prefect_session import PrefectSession
from flows.stack.processes import mark
from flows.stack.schedules import switch_schedule
from flows.stack.setup import create_work_pool
from merge_core.errors import MergeflowError
from merge_core.homes.home import Home

pytestmark = pytest.mark.slow

SCHEDULED = "merge/merge-scheduled"


@pytest.fixture
def client(prefect: PrefectSession) -> Iterator[SyncPrefectClient]:
    """The session's server, with the work pool on it."""
    with get_client(sync_client=True) as client:
        create_work_pool(client)
        yield client


@pytest.fixture
def deployment(client: SyncPrefectClient, tmp_path: Path) -> Iterator[DeploymentResponse]:
    """The scheduled merge, new."""
    create_deployment(client, entry(), tmp_path)
    deployment = client.read_deployment_by_name(SCHEDULED)
    yield deployment
    client.delete_deployment(deployment.id)


def entry(name: str = "merge-scheduled") -> dict[str, Any]:
    (found,) = [each for each in read_deployments() if each["name"] == name]
    return found


def switches(client: SyncPrefectClient) -> dict[str, bool]:
    schedules = client.read_deployment_by_name(SCHEDULED).schedules
    return {str(schedule.slug): schedule.active for schedule in schedules}


def test_what_the_user_made_of_a_schedule_survives_the_next_set_up(
    client: SyncPrefectClient, deployment: DeploymentResponse, home: Home, tmp_path: Path
) -> None:
    assert set(switches(client).values()) == {False}
    said = switch_schedule(home, "merge-scheduled/nightly", active=True)
    assert said == "merge-scheduled/nightly is on: cron 0 3 * * * (Europe/Berlin)"
    create_deployment(client, entry(), tmp_path / "elsewhere")
    assert switches(client) == {"nightly": True, "every-six-hours": False}
    again = client.read_deployment_by_name(SCHEDULED)
    assert again.id == deployment.id
    assert not again.pull_steps
    assert again.job_variables is not None
    assert again.job_variables["env"][VARIABLE] == str(tmp_path / "elsewhere")


def test_a_deployment_of_an_earlier_version_loses_its_pull_step(
    client: SyncPrefectClient, deployment: DeploymentResponse, tmp_path: Path
) -> None:
    """It would send a run to the user's directory before the flow is imported."""
    step = {"prefect.deployments.steps.set_working_directory": {"directory": str(tmp_path)}}
    client.update_deployment(deployment.id, DeploymentUpdate(pull_steps=[step]))
    assert client.read_deployment(deployment.id).pull_steps == [step]
    create_deployment(client, entry(), tmp_path)
    again = client.read_deployment(deployment.id)
    assert not again.pull_steps
    assert again.path is None  # Prefect would copy what is there


def test_a_mistyped_schedule_is_told_with_the_right_name(
    client: SyncPrefectClient, deployment: DeploymentResponse, home: Home
) -> None:
    with pytest.raises(MergeflowError, match="did you mean 'merge-scheduled/nightly'"):
        switch_schedule(home, "merge-scheduled/nighty", active=True)


def test_of_the_runs_that_an_outage_missed_the_latest_alone_is_left(
    client: SyncPrefectClient, deployment: DeploymentResponse
) -> None:
    (schedule,) = [each for each in deployment.schedules if each.slug == "every-six-hours"]
    client.update_deployment_schedule(deployment.id, schedule.id, active=True)
    now = datetime.now(UTC)
    window = {"start_time": now - timedelta(hours=48), "end_time": now, "min_runs": 8}
    body = {name: str(value) for name, value in window.items()} | {"min_runs": 8}
    client.request(
        "POST", "/deployments/{id}/schedule", path_params={"id": deployment.id}, json=body
    )
    late = runs_in(client, deployment, "SCHEDULED")
    assert len(late) == 8
    assert drop_missed_runs(client) == 7
    (left,) = runs_in(client, deployment, "SCHEDULED")
    assert left["expected_start_time"] == max(run["expected_start_time"] for run in late)
    assert len(runs_in(client, deployment, "CANCELLED")) == 7
    assert drop_missed_runs(client) == 0


def test_a_run_that_nobody_works_on_any_more_is_marked_and_frees_its_place(
    client: SyncPrefectClient, deployment: DeploymentResponse
) -> None:
    run = client.create_flow_run_from_deployment(deployment.id)
    client.set_flow_run_state(run.id, Running(), force=True)
    assert [each.id for each in end_dead_runs(client)] == [run.id]
    state = client.read_flow_run(run.id).state
    assert state is not None
    assert state.is_crashed()
    assert end_dead_runs(client) == []


@pytest.fixture
def process_of() -> Iterator[Callable[[UUID], None]]:
    """Starts processes that look like a stack's at work on a run."""
    started: list[subprocess.Popen[bytes]] = []

    def start(run: UUID) -> None:
        environment = os.environ | mark("stack", "worker") | {"PREFECT__FLOW_RUN_ID": str(run)}
        started.append(subprocess.Popen(["sleep", "600"], env=environment))

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_of_a_dead_workers_runs_those_without_a_process_end_and_the_others_go_on(
    client: SyncPrefectClient,
    deployment: DeploymentResponse,
    process_of: Callable[[UUID], None],
) -> None:
    states = {"outlived its worker": Running(), "went with it": Running(), "starts": Pending()}
    ids = {}
    for name, state in states.items():
        ids[name] = client.create_flow_run_from_deployment(deployment.id).id
        client.set_flow_run_state(ids[name], state, force=True)
    process_of(ids["outlived its worker"])

    def ended(**patience: timedelta) -> list[UUID]:
        return [run.id for run in end_abandoned_runs(client, "stack", {"local"}, **patience)]

    assert ended() == [ids["went with it"]]
    assert ended() == []
    assert ended(start_patience=timedelta(0)) == [ids["starts"]]
    crashed = {run["id"] for run in runs_in(client, deployment, "CRASHED")}
    assert crashed == {str(ids["went with it"]), str(ids["starts"])}
    end_dead_runs(client)


def test_nothing_is_ended_while_a_worker_of_somebody_else_may_be_at_it(
    client: SyncPrefectClient, deployment: DeploymentResponse
) -> None:
    run = client.create_flow_run_from_deployment(deployment.id)
    client.set_flow_run_state(run.id, Running(), force=True)
    client.send_worker_heartbeat(WORK_POOL, "elsewhere", heartbeat_interval_seconds=30)
    assert end_abandoned_runs(client, "stack", {"local"}) == []
    ours = {"local", "elsewhere"}
    assert [each.id for each in end_abandoned_runs(client, "stack", ours)] == [run.id]


def test_automations_and_limits_are_made_once(client: SyncPrefectClient) -> None:
    names = [ensure_gpu_limit(), ensure_gpu_limit()]
    limit = client.read_global_concurrency_limit_by_name(names[0])
    assert (limit.limit, len(set(names))) == (1, 1)
    for _ in range(2):
        create_automations(client)
    found = client.read_automations()
    ours = [each for each in found if each.name.startswith("mergeflow: a ")]
    assert len(ours) == 4
    (changed, *_) = ours
    client.pause_automation(changed.id)
    create_automations(client)
    kept = client.read_automation(changed.id)
    assert kept is not None
    assert not kept.enabled


def test_a_notification_block_is_connected_by_the_next_set_up_and_the_rest_stays(
    client: SyncPrefectClient,
) -> None:
    create_automations(client)
    (before,) = client.read_automations_by_name("mergeflow: a merge fell back")
    webhook = CustomWebhookNotificationBlock(name="test", url="http://127.0.0.1:9/hook")
    webhook.save(NOTIFICATION_BLOCK)
    create_automations(client)
    (after,) = client.read_automations_by_name("mergeflow: a merge fell back")
    assert [each.type for each in before.actions] == ["do-nothing"]
    assert [each.type for each in after.actions] == ["send-notification"]
    assert after.id == before.id
    assert after.trigger == before.trigger
    create_automations(client)
    assert client.read_automations_by_name("mergeflow: a merge fell back") == [after]


def runs_in(
    client: SyncPrefectClient, deployment: DeploymentResponse, state: str
) -> list[dict[str, Any]]:
    body = {
        "deployments": {"id": {"any_": [str(deployment.id)]}},
        "flow_runs": {"state": {"type": {"any_": [state]}}},
    }
    found: list[dict[str, Any]] = client.request("POST", "/flow_runs/filter", json=body).json()
    return found
