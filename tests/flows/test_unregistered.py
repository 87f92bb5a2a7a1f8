"""A registration that fails, at each of its steps: the verdict and the place of the merge are told,
nothing is lost, and the same command finishes it."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from prefect.tasks import Task

from flows.merge import merge_pipeline
from flows.model_zoo import Zoo
from flows.settings.pipeline import Pipeline
from flows.stack.prefect_session import PrefectSession
from flows.steps.unregistered import telling_what_is_done
from merge_core.errors import MergeflowError, OutputError, StepError
from merge_core.homes.home import Home
from merge_core.records import CheckpointManifest
from tasks.records import Decision
from tasks.registry.client import RegistryUnreachableError, default_tracking_uri
from tasks.roles import MERGE
from tests.support.recorded_steps import recorded_steps
from tests.support.registrations import decision, merge_of, source
from tests.support.registry_contents import champion_holder, client

RULE = {"max_regression": 1.0, "min_gain": -1.0, "min_documents": 5}
FULL = OSError(errno.ENOSPC, "No space left on device")
STEPS = (
    *("create_experiment", "create_logged_model", "log_model_artifacts", "create_run"),
    *("log_batch", "log_inputs", "log_artifacts", "create_model_version"),
    *("set_registered_model_tag", "set_registered_model_alias"),
)
"""Calls of MLflow's client, in the order in which a registration makes them first."""


@pytest.fixture
def decided(tiny_zoo: Zoo) -> tuple[CheckpointManifest, Decision]:
    base, merged = source(tiny_zoo.base), source(tiny_zoo.prose_expert)
    return merge_of(base, [], merged), decision(base, merged.digest, promote=True)


@pytest.mark.parametrize("kind", [StepError, RegistryUnreachableError, OutputError])
def test_an_error_says_what_was_decided_and_where_the_merge_is(
    decided: tuple[CheckpointManifest, Decision], kind: type[MergeflowError]
) -> None:
    error = kind("it broke", where="there", mend="mend it", details=["a detail"])
    with pytest.raises(kind) as told, telling_what_is_done(*decided, MERGE):
        raise error
    assert str(told.value).splitlines() == [
        "there: it broke",
        "a detail",
        "decided before that: Promoted: the merged checkpoint replaces the base",
        f"the merged checkpoint is in {decided[0].path}; the same run again registers it where this"
        " one stopped, and merges and evaluates nothing again",
        "  what to do: mend it",
    ]


def test_what_is_no_error_of_ours_stays_as_it_is(
    decided: tuple[CheckpointManifest, Decision], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(OSError, match="No space left"), telling_what_is_done(*decided, MERGE):
        raise FULL
    assert decided[0].path in caplog.text
    assert "Promoted" in caplog.text


@pytest.fixture
def pipeline(
    tiny_zoo: Zoo, home: Home, prefect: PrefectSession, tmp_path: Path
) -> Iterator[Pipeline]:
    shutil.copytree(tiny_zoo.suite, tmp_path / "suite")
    suite = yaml.safe_load((tmp_path / "suite" / "suite.yaml").read_text())
    suite["tasks"] = [task for task in suite["tasks"] if task["task"] == "zoo_prose_bpb"]
    (tmp_path / "suite" / "suite.yaml").write_text(yaml.safe_dump(suite))
    values = {
        "name": "zoo",
        "recipe": {
            "merge_method": "linear",
            "models": [{"model": str(tiny_zoo.base)}, {"model": str(tiny_zoo.prose_expert)}],
            "parameters": {"weight": 0.5},
        },
        "evaluate": {"suite": str(tmp_path / "suite"), "experts": False},
        "promote": RULE,
        "register": {"model": "zoo"},
    }
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: str(home.cache)}):
        yield Pipeline.model_validate(values)


def run(pipeline: Pipeline) -> tuple[State[Any], set[str]]:
    """A run's last state, and the steps that were not found in the cache."""
    with recorded_steps() as steps:
        state = merge_pipeline(pipeline, return_state=True)
    return state, {name.split()[0] for name in steps.ran}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_disk_that_is_full_at_any_step_of_the_registration(
    pipeline: Pipeline,
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import mlflow

    registry = default_tracking_uri(home)
    for step in STEPS:
        caplog.clear()

        def full(*_arguments: Any, **_options: Any) -> None:
            raise FULL

        with monkeypatch.context() as patched:
            patched.setattr(mlflow.MlflowClient, step, full)
            state, _ = run(pipeline)
        assert state.is_failed(), step
        told = f"{state.message}\n{caplog.text}"
        assert "Promoted: the merged checkpoint replaces the base" in told, step
        assert f"the merged checkpoint is in {home.objects}" in told, step
        assert "No space left on device" in told, step
    state, done = run(pipeline)
    assert str(state.message).startswith("Promoted"), state.message
    assert not done & {"merge", "evaluate", "decide"}, "all that was computed is found"
    versions = client(registry).search_model_versions("name = 'zoo'")
    assert sorted(str(version.version) for version in versions) == ["1", "2"]
    assert champion_holder(registry) == "2"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_database_that_another_program_holds(
    pipeline: Pipeline, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locked from the decision on: the run waits twice, then tells; the same command finishes."""
    run(pipeline)
    database = home.mlflow / "mlflow.db"
    changed = pipeline.model_copy(update={"name": "again"})
    from flows.steps import judging

    champion_now, holder = judging.champion_now, sqlite3.connect(database)

    def then_locked(*arguments: Any) -> Any:
        found = champion_now(*arguments)
        holder.execute("BEGIN EXCLUSIVE")
        return found

    quick: Task[..., Any] = judging.register_task.with_options(retries=0)
    with monkeypatch.context() as patched:
        patched.setattr(judging, "champion_now", then_locked)
        patched.setattr(judging, "register_task", quick)
        try:
            state, _ = run(changed)
        finally:
            holder.close()
    assert state.is_failed()
    assert "the MLflow database is locked by another program" in str(state.message)
    assert "decided before that: Promoted" in str(state.message)
    state, done = run(changed)
    assert str(state.message).startswith("Promoted"), state.message
    assert not done & {"merge", "evaluate", "decide"}
