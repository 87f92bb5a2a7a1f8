"""What `deployments/` promises, read from its files: nothing runs by itself, nothing piles up."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from prefect.events.actions import DoNothing
from prefect.events.schemas.automations import AutomationCore
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.schema_tools.validation import validate

from flows.stack.deployments import DIRECTORY, read_deployments
from merge_core.files.strict_yaml import load_yaml
from tasks.averaging.checkpoint_saved import CheckpointSaved, event

DEPLOYMENTS = {entry["name"]: entry for entry in read_deployments()}
FLOWS = Path(__file__).parents[3] / "flows"


def test_every_deployment_of_the_file_has_its_flow() -> None:
    named = [entry["name"] for entry in load_yaml(DIRECTORY / "prefect.yaml")["deployments"]]
    assert named == list(DEPLOYMENTS)
    assert {"merge", "merge-scheduled", "average-checkpoints"} <= set(named)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_schedules_are_off_and_runs_neither_overlap_nor_pile_up(name: str) -> None:
    entry = DEPLOYMENTS[name]
    schedules = entry.get("schedules", [])
    assert all(schedule["active"] is False and schedule["slug"] for schedule in schedules)
    assert all(schedule["timezone"] for schedule in schedules)
    assert entry["concurrency_limit"]["limit"] == 1
    started_by_machines = bool(schedules or entry.get("triggers"))
    strategy = "CANCEL_NEW" if started_by_machines else "ENQUEUE"
    assert entry["concurrency_limit"]["collision_strategy"] == strategy


@pytest.mark.parametrize("name", ["merge-scheduled", "average-checkpoints"])
def test_what_a_schedule_starts_fits_the_flows_form(name: str) -> None:
    flow = load_flow_from_entrypoint(DEPLOYMENTS[name]["entrypoint"], use_placeholder_flow=False)
    schema = flow.parameters.model_dump_for_openapi()
    sets = [DEPLOYMENTS[name]["parameters"]]
    sets += [trigger["parameters"] for trigger in DEPLOYMENTS[name].get("triggers", [])]
    filled = re.sub(r"\{\{ event.payload.\w+ \}\}", "value", repr(sets))
    for parameters in ast.literal_eval(filled):
        assert validate(parameters, schema) == []


def test_a_run_that_has_ended_is_not_taken_for_dead() -> None:
    """Every name that a flow's last state can have has to be known to the automation, and of a
    successful one also to the filters of Prefect's lists, which know `Completed` alone."""
    automations = load_yaml(DIRECTORY / "automations.yaml")["automations"]
    (dead,) = [each for each in automations if each["trigger"]["posture"] == "Proactive"]
    named = {
        keyword
        for path in FLOWS.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Completed"
        for keyword in [each.arg for each in call.keywords]
    }
    assert "message" in named
    assert "name" not in named
    ends = {"Completed", "Failed", "Crashed", "Cancelled"}
    assert {f"prefect.flow-run.{name}" for name in ends} <= set(dead["trigger"]["expect"])


def test_a_run_sends_many_heartbeats_before_it_is_taken_for_dead() -> None:
    automations = load_yaml(DIRECTORY / "automations.yaml")["automations"]
    (patience,) = [each["trigger"]["within"] for each in automations if "within" in each["trigger"]]
    for entry in DEPLOYMENTS.values():
        environment = entry["work_pool"]["job_variables"]["env"]
        assert int(environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) * 5 <= patience


def test_the_automations_are_ones_that_prefect_takes() -> None:
    for entry in load_yaml(DIRECTORY / "automations.yaml")["automations"]:
        if entry.pop("notify", False):
            entry["actions"] = [DoNothing()]
        assert AutomationCore.model_validate(entry).enabled


def test_the_event_is_one_that_the_trigger_waits_for(tmp_path: Path) -> None:
    (trigger,) = DEPLOYMENTS["average-checkpoints"]["triggers"]
    said = event(tmp_path / "my run!", "checkpoint-8", 8)
    assert trigger["expect"] == [said["event"]]
    prefix = trigger["match"]["prefect.resource.id"].rstrip("*")
    assert said["resource"]["prefect.resource.id"] == f"{prefix}my-run"
    used = set(re.findall(r"event\.payload\.(\w+)", str(trigger["parameters"])))
    assert used == {"name", "run"}
    assert used <= set(said["payload"])


def test_an_event_that_cannot_be_sent_does_not_disturb_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    callback = CheckpointSaved("http://127.0.0.1:9/api")
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    callback.on_save(arguments, TrainerState(global_step=3), TrainerControl())
    assert "the event of step 3 was not sent" in caplog.text
    callback.on_save(arguments, TrainerState(is_world_process_zero=False), TrainerControl())
    assert caplog.text.count("was not sent") == 1
