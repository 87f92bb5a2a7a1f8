"""A rehearsal of a pipeline refuses what the run would refuse before its merge."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from prefect import flow

from flows.model_zoo import Zoo
from flows.run_step import UNSTORED
from flows.settings.pipeline import load_pipeline
from flows.stack.prefect_session import PrefectSession
from flows.steps.dry_run import rehearse
from merge_core.errors import CompatibilityError


@flow(name="rehearsal", **UNSTORED)
def rehearsal(path: Path) -> str:
    """`rehearse` inside a flow run, as forms call it."""
    loaded = load_pipeline(path)
    return rehearse(loaded.pipeline, loaded.beside)


@pytest.fixture
def place(tmp_path: Path, prefect: PrefectSession, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a pipeline is written, beside a home of its own."""
    monkeypatch.setenv("MERGEFLOW_HOME", str(tmp_path / "home"))
    return tmp_path


def pipeline(place: Path, zoo: Zoo, expert: Path, **recipe: object) -> Path:
    """A pipeline file that merges one expert and the prose expert."""
    models = [
        {"model": str(each), "parameters": {"weight": 0.5}} for each in (expert, zoo.prose_expert)
    ]
    method = {"merge_method": "task_arithmetic", "base_model": str(zoo.base), "models": models}
    values = {"name": "zoo", "recipe": method | recipe, "evaluate": {"suite": str(zoo.suite)}}
    path = place / "pipeline.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_checkpoints_that_do_not_belong_together_are_refused(place: Path, tiny_zoo: Zoo) -> None:
    stranger = tiny_zoo.directory / "other-run"
    with pytest.raises(CompatibilityError, match="not a fine-tune"):
        rehearsal(pipeline(place, tiny_zoo, stranger))


def test_what_fits_is_planned_and_what_is_odd_is_said(
    place: Path, tiny_zoo: Zoo, caplog: pytest.LogCaptureFixture
) -> None:
    path = pipeline(place, tiny_zoo, tiny_zoo.code_expert, exclude=["lm_hed"])
    assert rehearsal(path).startswith("3 checkpoints fit; task_arithmetic would write ")
    assert "exclude[0] (filter 'lm_hed') decides on no tensor" in caplog.text
