"""The deployments on a real stack: the form, schedules, the event of a saved checkpoint.

One home; the tests follow each other. Not part of `make test`: `make stack`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from flows.model_zoo import Zoo
from flows.settings.method_forms import FORMS
from flows.stack.deployments import DIRECTORY
from tests.support.processes import wait_until
from tests.support.stack import (
    LENIENT,
    Refused,
    RunningStack,
    ending,
    form,
    merge_from_the_form,
    switches,
    versions,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SCHEDULE = "merge-scheduled/nightly"


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"device": "gpu"}, "device", "is not one of"),
        ({"name": "two words"}, "name", "'letters, digits, dot, dash and underscore"),
        ({"promote": {"max_regression": -1}}, "promote.max_regression", "'a number, 0 or more'"),
        ({"merge": {"recipe": "r.yaml", "base": "b"}}, "merge.base", "there is a recipe"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_form_filled_in_wrong_is_refused_before_a_run_exists(
    stack: RunningStack, tiny_zoo: Zoo, changes: dict[str, Any], field: str, said: str
) -> None:
    before = stack.prefect("/flow_runs/count", {})
    with pytest.raises(Refused) as refused:
        stack.start_run("merge/merge", form(tiny_zoo, **changes))
    assert refused.value.status == 409
    assert f"'{field}'" in refused.value.said
    assert said in refused.value.said
    assert stack.prefect("/flow_runs/count", {}) == before


def test_a_dry_run_checks_everything_and_merges_nothing(stack: RunningStack, tiny_zoo: Zoo) -> None:
    run = stack.finish(stack.start_run("merge/merge", form(tiny_zoo, dry_run=True)))
    assert ending(run) == "Dry run", run["state"]["message"]
    assert "3 checkpoints fit" in run["state"]["message"]
    assert not (stack.home / "store" / "objects").exists()
    assert versions(stack) == []


def test_every_form_is_filled_in_and_checked(stack: RunningStack, tiny_zoo: Zoo) -> None:
    base = str(tiny_zoo.base)
    rows = [
        {"model": str(model), "weight": 0.5}
        for model in (tiny_zoo.code_expert, tiny_zoo.prose_expert)
    ]
    vectors = {"base": base, "models": rows}
    recipe = {"merge_method": "linear", "models": [{"model": base}, {"model": rows[0]["model"]}]}
    filled: dict[str, dict[str, Any]] = {
        "average": {"models": rows},
        "task-arithmetic": vectors,
        "ties": {**vectors, "density": 0.3},
        "dare": {**vectors, "density": 0.5},
        "slerp": {"base": base, "model": rows[0]["model"], "t": 0.4},
        "stack-layers": {"runs": [{"model": base, "first": 0, "last": 1}] * 2},
        "recipe": {"recipe": yaml.safe_dump(recipe)},
    }
    assert set(filled) == set(FORMS)
    common = {"own_suite": "suite", "device": "cpu", "dry_run": True}
    runs = {
        name: stack.start_run(f"merge/{name}", {"name": f"my-{name}", **own, **common})
        for name, own in filled.items()
    }
    for name, run in runs.items():
        assert f"my-{name}" in stack.prefect(f"/flow_runs/{run}")["name"], "before it is at work"
        ended = stack.finish(run)
        assert ended["state"]["type"] == "COMPLETED", ended["state"]["message"]
        assert ending(ended) == "Dry run"
        assert re.search(r": \d checkpoints? fit; \w+ would write", ended["state"]["message"])
        assert ended["name"].startswith(f"dry-run-my-{name}-")
    assert versions(stack) == []


def test_a_form_that_names_nothing_real_fails_with_what_to_mend(
    stack: RunningStack, tiny_zoo: Zoo
) -> None:
    wrong = form(tiny_zoo, suite="siute")
    run = stack.finish(stack.start_run("merge/merge", wrong))
    assert run["state"]["type"] == "FAILED"
    assert "no suite 'siute'" in run["state"]["message"]
    assert "what to do:" in run["state"]["message"]


def test_a_merge_from_the_form_is_promoted_and_registered(
    stack: RunningStack, tiny_zoo: Zoo
) -> None:
    merge_from_the_form(stack, tiny_zoo)


def test_a_recipe_in_the_form_is_the_same_merge(stack: RunningStack, tiny_zoo: Zoo) -> None:
    filled = form(tiny_zoo)["merge"]
    recipe = {
        "merge_method": filled["method"],
        "base_model": filled["base"],
        "models": [
            {"model": row["model"], "parameters": {"weight": row["weight"]}}
            for row in filled["models"]
        ],
    }
    (stack.directory / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    runs = [
        stack.finish(stack.start_run("merge/merge", form(tiny_zoo, merge={"recipe": text})))
        for text in (yaml.safe_dump(recipe), "recipe.yaml")
    ]
    assert {ending(run) for run in runs} == {"Promoted"}
    assert len(versions(stack)) == 2


def test_other_commands_on_this_home_use_the_stack(stack: RunningStack, tiny_zoo: Zoo) -> None:
    before = stack.prefect("/flow_runs/count", {})
    pipeline = {
        "name": "by-hand",
        "recipe": {
            "merge_method": "linear",
            "models": [
                {"model": str(model), "parameters": {"weight": 1}}
                for model in (tiny_zoo.base, tiny_zoo.code_expert)
            ],
        },
        "evaluate": {"suite": "suite"},
        "promote": LENIENT,
        "register": {"model": "zoo"},
    }
    (stack.directory / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))
    ran = stack.call("run", "pipeline.yaml")
    assert ran.returncode in (0, 3), ran.stderr
    assert stack.prefect("/flow_runs/count", {}) == before + 1
    assert len(versions(stack)) == 3


def test_schedules_are_off_until_switched_on(stack: RunningStack) -> None:
    assert set(switches(stack).values()) == {False}
    switched = stack.call("schedule", SCHEDULE, "on")
    assert switched.returncode == 0, switched.stderr
    assert "Europe/Berlin" in switched.stdout
    assert switches(stack)[SCHEDULE]
    wrong = stack.call("schedule", "merge-scheduled/nightli", "on")
    assert wrong.returncode == 2
    assert f"did you mean '{SCHEDULE}'" in wrong.stderr


def test_prefects_own_deploy_command_makes_the_same_deployments(stack: RunningStack) -> None:
    before = deployments(stack)
    address = f"http://127.0.0.1:{stack.prefect_port}/api"
    file = DIRECTORY / "prefect.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--prefect-file", file, "--all"],
        env={**stack.environment, **stack.logged_in, "PREFECT_API_URL": address},
        cwd=stack.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert deployments(stack) == before
    stack.call("schedule", SCHEDULE, "on")


def deployments(stack: RunningStack) -> dict[str, Any]:
    """What a deployment is, without what differs by moment; whether its schedules are on is the
    user's choice, which Prefect's own command takes back."""
    told = ("description", "parameters", "entrypoint", "pull_steps", "work_pool_name")
    found = {}
    for each in stack.prefect("/deployments/filter", {}):
        schedules = {
            schedule["slug"]: {
                key: value for key, value in schedule["schedule"].items() if value is not None
            }
            for schedule in each["schedules"]
        }
        found[each["name"]] = {name: each[name] for name in told} | {
            "schedules": schedules,
            "limit": each["global_concurrency_limit"]["limit"],
            "strategy": each["concurrency_options"]["collision_strategy"],
            "tags": sorted(each["tags"]),
            # That other keys are refused is said by `mergeflow up` alone.
            "schema": {**each["parameter_openapi_schema"], "additionalProperties": False},
            "start": each["job_variables"]["env"]["MERGEFLOW_DIRECTORY"],
        }
    return found


TRAINING = """
import sys
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
from tasks.averaging.checkpoint_saved import CheckpointSaved

base, run, api = sys.argv[1:]
documents = [{"input_ids": torch.arange(8), "labels": torch.arange(8)} for _ in range(8)]
arguments = TrainingArguments(
    output_dir=run, max_steps=2, save_steps=1, report_to=[], use_cpu=True, disable_tqdm=True
)
trainer = Trainer(AutoModelForCausalLM.from_pretrained(base), arguments, train_dataset=documents)
trainer.add_callback(CheckpointSaved(api))
trainer.train()
foreign = ("flows", "prefect", "mlflow", "merge_core")
names_alone = {"merge_core", "merge_core.former_names"}  # so that former names of modules are found
loaded = {name for name in sys.modules if name.partition(".")[0] in foreign} - names_alone
assert not loaded, loaded
"""


def test_a_trainer_that_saves_a_checkpoint_starts_the_average_of_its_run(
    stack: RunningStack, tiny_zoo: Zoo
) -> None:
    run = stack.directory / "my run"
    address = f"http://127.0.0.1:{stack.prefect_port}/api"
    trained = subprocess.run(
        [sys.executable, "-c", TRAINING, tiny_zoo.base, run, address],
        env={**stack.environment, "PYTHONPATH": str(DIRECTORY.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert trained.returncode == 0, trained.stderr
    assert "was not sent" not in trained.stderr
    assert sorted(path.name for path in run.glob("checkpoint-*")) == [
        "checkpoint-1",
        "checkpoint-2",
    ]

    def started() -> list[dict[str, Any]]:
        flows = {"flows": {"name": {"any_": ["average-checkpoints"]}}}
        return list(stack.prefect("/flow_runs/filter", flows))

    assert wait_until(lambda: len(started()) == 2, 60)
    for each in started():
        averaging = each["parameters"]["averaging"]
        assert averaging["training"]["run"] == str(run)
        assert averaging["name"] == averaging["register"]["model"] == "my-run"
        stack.finish(each["id"])
