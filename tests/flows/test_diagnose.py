"""A pipeline that asks for a diagnosis has it on its page and in MLflow, and never fails by it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from flows.merge import merge_pipeline
from flows.model_zoo import Zoo
from flows.settings.pipeline import Pipeline
from flows.stack.prefect_session import PrefectSession
from merge_core.homes.home import Home
from tasks.records import MergeOutcome
from tasks.registry.client import default_tracking_uri, open_registry
from tests.flows.test_merge import markdown_of

pytestmark = pytest.mark.slow


def pipeline_of(zoo: Zoo, **more: object) -> Pipeline:
    models = [
        {"model": str(zoo.directory / name), "parameters": {"weight": 0.5}}
        for name in ("code-expert", "prose-expert")
    ]
    recipe = {"merge_method": "task_arithmetic", "base_model": str(zoo.base), "models": models}
    return Pipeline.model_validate(
        {
            "name": "looked-at",
            "recipe": {**recipe, "dtype": "bfloat16"},
            "evaluate": {"suite": str(zoo.suite)},
            "register": {"model": "looked-at"},
            **more,
        }
    )


def test_the_page_is_on_the_run_and_in_mlflow(
    tiny_zoo: Zoo, home: Home, prefect: PrefectSession
) -> None:
    state = merge_pipeline(pipeline_of(tiny_zoo, diagnose=True), return_state=True)
    outcome: MergeOutcome = state.result()
    page = markdown_of(state)["looked-at-diagnosis"]
    assert "## Diagnosis of looked-at" in page
    assert "| code-expert to prose-expert |" in page
    assert "](data:image/png;base64," in page
    kept = home.path / "diagnoses" / "looked-at.html"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert str(kept) in page
    assert outcome.registration is not None
    with open_registry(default_tracking_uri(home)) as registry:
        run = outcome.registration.run_id
        files = {file.path for file in registry.client.list_artifacts(run, "diagnosis")}
        wanted = ("diagnosis.html", "search.yaml", "diagnosis.json")
        assert files == {f"diagnosis/{name}" for name in wanted}
        stored = registry.client.download_artifacts(run, "diagnosis/diagnosis.html")
        assert Path(stored).read_text() == kept.read_text()


def test_nobody_who_did_not_ask_pays_for_one(
    tiny_zoo: Zoo, home: Home, prefect: PrefectSession
) -> None:
    state = merge_pipeline(pipeline_of(tiny_zoo), return_state=True)
    assert "looked-at-diagnosis" not in markdown_of(state)
    assert not (home.path / "diagnoses").exists()
    assert not list(home.cache.glob("diagnose-*"))


def test_a_diagnosis_that_fails_is_a_warning(
    tiny_zoo: Zoo, home: Home, prefect: PrefectSession, caplog: pytest.LogCaptureFixture
) -> None:
    home.path.mkdir(parents=True, exist_ok=True)
    (home.path / "diagnoses").write_text("something else has this name")
    with caplog.at_level(logging.WARNING, "mergeflow"):
        state = merge_pipeline(pipeline_of(tiny_zoo, diagnose=True), return_state=True)
    assert state.is_completed()
    assert "this run has no diagnosis (NotADirectoryError" in caplog.text
