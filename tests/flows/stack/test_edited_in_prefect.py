"""What the user edited in Prefect survives the next `mergeflow up`; the rest is updated.

Not part of `make test`: `make stack`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import get_client
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from flows.stack import deployments, setup
from flows.stack.automations import NOTIFICATION_BLOCK
from flows.stack.deployments import DIRECTORY, read_deployments
from flows.stack.prefect_session import PrefectSession
from flows.stack.setup import create_work_pool, set_up
from merge_core.files.strict_yaml import load_yaml
from merge_core.homes.home import Home

pytestmark = pytest.mark.slow

SCHEDULED = "merge/merge-scheduled"
FELL_BACK = "mergeflow: a merge fell back"
DEAD = "mergeflow: a run is dead"
TRIGGER = "mergeflow: average when a checkpoint was saved"
FORMER_SUBJECT = "{{ flow.name }}: {{ flow_run.name }} is {{ flow_run.state.name }}"
"""As the version of commit 63696b2 sent it."""
FORMER_BODY = "{{ flow_run.state.message or '' }}\n\n{{ flow_run|ui_url }}"


@pytest.fixture
def client(prefect: PrefectSession) -> Iterator[SyncPrefectClient]:
    """The session's server, with the work pool and nothing besides; as it is left."""
    with get_client(sync_client=True) as client:
        create_work_pool(client)
        _clear(client)
        yield client
        _clear(client)


def _clear(client: SyncPrefectClient) -> None:
    for automation in client.read_automations():
        client.delete_automation(automation.id)
    for deployment in client.read_deployments():
        client.delete_deployment(deployment.id)
    for block in client.read_block_documents():
        if block.name == NOTIFICATION_BLOCK:
            client.delete_block_document(block.id)


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """The entries of `prefect.yaml` by name, as the file's author may change them."""
    entries = copy.deepcopy(read_deployments())
    monkeypatch.setattr(setup, "read_deployments", lambda: copy.deepcopy(entries))
    return {entry["name"]: entry for entry in entries}


def scheduled(client: SyncPrefectClient) -> DeploymentResponse:
    return client.read_deployment_by_name(SCHEDULED)


def automation(client: SyncPrefectClient, name: str) -> Automation:
    (found,) = client.read_automations_by_name(name)
    return found


def edit_parameters(client: SyncPrefectClient, **values: Any) -> None:
    found = scheduled(client)
    update = DeploymentUpdate(parameters=found.parameters | values)
    client.update_deployment(found.id, update)


def up(client: SyncPrefectClient, home: Home, directory: Path) -> list[str]:
    """What the next `mergeflow up` does, and what it says of edits."""
    return set_up(client, directory, home).said


@pytest.mark.usefixtures("shipped")
def test_what_nobody_edited_is_told_of_nowhere(
    client: SyncPrefectClient, home: Home, tmp_path: Path
) -> None:
    assert [up(client, home, tmp_path) for _ in range(2)] == [[], []]
    names = [each.name for each in client.read_automations()]
    assert len(names) == len(set(names)) == 5
    with pytest.raises(PrefectHTTPStatusError, match="'surprise' was unexpected"):
        client.create_flow_run_from_deployment(
            scheduled(client).id, parameters=scheduled(client).parameters | {"surprise": 1}
        )


def test_an_edited_suite_is_kept_and_the_rest_of_the_files_changes_arrive(
    client: SyncPrefectClient, home: Home, tmp_path: Path, shipped: dict[str, dict[str, Any]]
) -> None:
    up(client, home, tmp_path)
    edit_parameters(client, suite="mine")
    assert up(client, home, tmp_path) == []
    assert scheduled(client).parameters["suite"] == "mine"
    shipped["merge-scheduled"]["parameters"] |= {"suite": "starter", "device": "cpu"}
    (said,) = up(client, home, tmp_path)
    assert said.startswith(f"{SCHEDULED}: parameters.suite was edited in Prefect and is kept")
    assert said.endswith('left out: "starter"')
    assert scheduled(client).parameters == {
        **shipped["merge-scheduled"]["parameters"],
        "suite": "mine",
        "device": "cpu",
    }
    edit_parameters(client, suite="starter")
    assert up(client, home, tmp_path) == [], "both say the same: nothing is left out"


def test_description_tags_limit_and_variables_that_were_edited_are_kept(
    client: SyncPrefectClient, home: Home, tmp_path: Path, shipped: dict[str, dict[str, Any]]
) -> None:
    up(client, home, tmp_path)
    found = scheduled(client)
    variables = copy.deepcopy(found.job_variables)
    variables["env"]["CUDA_VISIBLE_DEVICES"] = "1"
    edited = DeploymentUpdate(
        description="ours", tags=["mergeflow", "team"], concurrency_limit=3, job_variables=variables
    )
    client.update_deployment(found.id, edited)
    entry = shipped["merge-scheduled"]
    entry["description"], entry["tags"] = "new", ["mergeflow", "new"]
    entry["concurrency_limit"]["limit"] = 2
    entry["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] = "20"
    said = up(client, home, tmp_path / "elsewhere")
    assert [each.split(" ")[1] for each in said] == ["description", "tags", "concurrency_limit"]
    after = scheduled(client)
    assert (after.description, sorted(after.tags)) == ("ours", ["mergeflow", "team"])
    assert after.global_concurrency_limit is not None
    assert after.global_concurrency_limit.limit == 3
    assert after.job_variables["env"] == {
        "CUDA_VISIBLE_DEVICES": "1",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "20",
        "MERGEFLOW_DIRECTORY": str(tmp_path / "elsewhere"),
    }


def test_schedules_that_were_edited_or_deleted_stay_so_and_the_others_follow_the_file(
    client: SyncPrefectClient, home: Home, tmp_path: Path, shipped: dict[str, dict[str, Any]]
) -> None:
    up(client, home, tmp_path)
    found = scheduled(client)
    ids = {each.slug: each.id for each in found.schedules}
    nightly = CronSchedule(cron="0 5 * * *", timezone="UTC")
    client.update_deployment_schedule(found.id, ids["nightly"], schedule=nightly, active=True)
    client.delete_deployment_schedule(found.id, ids["every-six-hours"])
    entry = shipped["merge-scheduled"]
    entry["schedules"][0]["cron"] = "0 4 * * *"
    entry["schedules"].append(
        {"slug": "weekly", "cron": "0 0 * * 0", "timezone": "UTC", "active": False}
    )
    (said,) = up(client, home, tmp_path)
    assert said.startswith(f"{SCHEDULED}: schedules.nightly was edited in Prefect and is kept")
    assert "0 4 * * *" in said
    after = {each.slug: each for each in scheduled(client).schedules}
    assert set(after) == {"nightly", "weekly"}
    assert (after["nightly"].schedule.cron, after["nightly"].active) == ("0 5 * * *", True)
    entry["schedules"][-1]["cron"] = "0 1 * * 0"
    up(client, home, tmp_path)
    (weekly,) = [each for each in scheduled(client).schedules if each.slug == "weekly"]
    assert weekly.schedule.cron == "0 1 * * 0"


def test_a_server_of_the_version_before_keeps_its_edits_and_gets_the_new_description(
    client: SyncPrefectClient, home: Home, tmp_path: Path
) -> None:
    """Nobody remembers what was given there: what the former file says was not edited."""
    up(client, home, tmp_path)
    name = "average-checkpoints/average-checkpoints"
    found = client.read_deployment_by_name(name)
    (former,) = deployments.former_deployments("average-checkpoints")
    client.update_deployment(found.id, DeploymentUpdate(description=former["description"]))
    edit_parameters(client, suite="mine")
    (home.stack / "deployments.json").unlink()
    (said,) = up(client, home, tmp_path)
    assert "parameters.suite was edited" in said
    assert '"english-small"' in said
    (shipped,) = [each for each in read_deployments() if each["name"] == "average-checkpoints"]
    assert former["description"] != shipped["description"]
    assert client.read_deployment_by_name(name).description == shipped["description"]
    assert scheduled(client).parameters["suite"] == "mine"


def test_edited_parameters_that_fit_the_form_no_more_make_way_with_a_word(
    client: SyncPrefectClient, home: Home, tmp_path: Path
) -> None:
    up(client, home, tmp_path)
    found = scheduled(client)
    wrong = DeploymentUpdate(
        parameters=found.parameters | {"gone": 1, "suite": "mine"}, enforce_parameter_schema=False
    )
    client.update_deployment(found.id, wrong)
    (said,) = up(client, home, tmp_path)
    assert "do not fit the form of this version (it has no gone)" in said
    assert '"suite": "mine"' in said
    assert scheduled(client).parameters == found.parameters


def test_a_deployment_that_was_deleted_is_made_again(
    client: SyncPrefectClient, home: Home, tmp_path: Path
) -> None:
    up(client, home, tmp_path)
    edit_parameters(client, suite="mine")
    client.delete_deployment(scheduled(client).id)
    with pytest.raises(ObjectNotFound):
        scheduled(client)
    assert up(client, home, tmp_path) == []
    assert scheduled(client).parameters["suite"] == "english-small"


def test_a_memory_that_cannot_be_read_costs_no_edit(
    client: SyncPrefectClient, home: Home, tmp_path: Path
) -> None:
    up(client, home, tmp_path)
    edit_parameters(client, suite="mine")
    (home.stack / "deployments.json").write_text("[1, 2")
    up(client, home, tmp_path)
    assert scheduled(client).parameters["suite"] == "mine"


def test_a_trigger_that_was_edited_or_deleted_stays_so_and_is_never_doubled(
    client: SyncPrefectClient, home: Home, tmp_path: Path, shipped: dict[str, dict[str, Any]]
) -> None:
    up(client, home, tmp_path)
    before = automation(client, TRIGGER)
    up(client, home, tmp_path)
    assert automation(client, TRIGGER) == before
    edited = before.model_dump(include=set(AutomationCore.model_fields) - {"owner_resource"})
    edited["trigger"]["expect"] = {"checkpoint.saved", "mine"}
    client.update_automation(before.id, AutomationCore.model_validate(edited))
    kept = automation(client, TRIGGER)
    entry = shipped["average-checkpoints"]
    entry["triggers"][0]["expect"] = ["checkpoint.written"]
    (said,) = up(client, home, tmp_path)
    assert f"triggers.{TRIGGER} was edited in Prefect and is kept" in said
    assert "checkpoint.written" in said
    assert automation(client, TRIGGER) == kept
    client.delete_automation(kept.id)
    up(client, home, tmp_path)
    assert client.read_automations_by_name(TRIGGER) == []


def as_formerly_shipped(
    client: SyncPrefectClient, block: UUID | None = None, **changes: Any
) -> None:
    """The automations of the version before, with the user's notification block connected."""
    formerly = load_yaml(DIRECTORY / "former_automations.yaml")["automations"]
    for entry in formerly:
        if entry.pop("notify", False):
            action = {"type": "do-nothing"}
            if block is not None:
                action = SendNotification(
                    block_document_id=block, subject=FORMER_SUBJECT, body=FORMER_BODY
                ).model_dump(mode="json")
            entry["actions"] = [action]
        client.create_automation(AutomationCore.model_validate(entry | changes))


@pytest.mark.parametrize("with_block", [False, True], ids=["no block", "block"])
def test_automations_as_the_version_before_shipped_them_are_replaced(
    client: SyncPrefectClient, home: Home, tmp_path: Path, with_block: bool
) -> None:
    block = None
    if with_block:
        webhook = CustomWebhookNotificationBlock(name="test", url="http://127.0.0.1:9/hook")
        block = webhook.save(NOTIFICATION_BLOCK)
    as_formerly_shipped(client, block, enabled=False)
    before = {name: automation(client, name).id for name in (FELL_BACK, DEAD)}
    assert up(client, home, tmp_path) == []
    assert {name: automation(client, name).id for name in before} == before
    assert not automation(client, FELL_BACK).enabled, "the switch is the user's"
    assert automation(client, FELL_BACK).trigger.expect == {"mergeflow.fell-back"}
    assert not {each for each in automation(client, DEAD).trigger.expect if "Promoted" in each}
    assert "prefect.flow-run.Completed" in automation(client, DEAD).trigger.expect
    if with_block:
        (action,) = automation(client, FELL_BACK).actions
        assert action.block_document_id == block
        assert "event.payload.ending" in action.subject


def test_edited_automations_that_wait_for_former_names_are_kept_and_named(
    client: SyncPrefectClient, home: Home, tmp_path: Path
) -> None:
    as_formerly_shipped(client, description="told to the night shift")
    own = AutomationCore.model_validate(
        {
            "name": "serve it",
            "trigger": {
                "type": "event",
                "posture": "Reactive",
                "threshold": 1,
                "expect": ["prefect.flow-run.Promoted"],
            },
            "actions": [{"type": "do-nothing"}],
        }
    )
    client.create_automation(own)
    before = {name: automation(client, name) for name in (FELL_BACK, DEAD, "serve it")}
    said = up(client, home, tmp_path)
    assert {name: automation(client, name) for name in before} == before
    assert len(said) == 2, "the one for dead runs waits for Completed besides, and misses nothing"
    (fell_back,) = [each for each in said if f"'{FELL_BACK}'" in each]
    assert "prefect.flow-run.FellBack" in fell_back
    assert fell_back.endswith("the event mergeflow.fell-back")
    (serve,) = [each for each in said if "'serve it'" in each]
    assert "prefect.flow-run.Promoted" in serve
    assert serve.endswith("the event mergeflow.promoted")
    assert up(client, home, tmp_path) == said, "said again until it is mended"
