"""A training run's checkpoints on disk and on the Hub: which are averaged, and which are not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from merge_core.errors import CheckpointError
from merge_core.homes.home import Home
from merge_core.operations.trajectory.records import Trajectory
from merge_core.operations.trajectory.select import Choice
from tasks.averaging.trajectory import TrainingRun, find_trajectory
from tasks.hub_answers import HubUnreachableError
from tests.support.checkpoints import write_checkpoint
from tests.support.hub_server import Hub, serve_hub
from tests.support.tiny_llama import base_weights, fine_tuned

STEPS = (10, 20, 30)


def write_run(run: Path, *, shards: int = 1) -> list[Path]:
    """Three checkpoints of a made-up run, each with its log so far."""
    weights = base_weights()
    for number, step in enumerate(STEPS):
        weights = fine_tuned(weights, number)
        directory = run / f"checkpoint-{step}"
        write_checkpoint(directory, weights, shards=shards)
        write_state(directory, step, [(each, 3 - each / 100) for each in STEPS if each <= step])
    return [run / f"checkpoint-{step}" for step in STEPS]


def write_state(directory: Path, step: int, losses: list[tuple[int, float]]) -> None:
    rows = [{"step": at, "eval_loss": loss} for at, loss in losses]
    state = {"global_step": step, "log_history": rows}
    (directory / "trainer_state.json").write_text(json.dumps(state))


def find(
    run: Path | str, home: Home, choice: Choice | None = None, **training: object
) -> Trajectory:
    values = {"run": str(run), "marker": "trainer_state.json"} | training
    return find_trajectory(TrainingRun.model_validate(values), choice or Choice(), home)


def steps(trajectory: Trajectory) -> list[int]:
    return [each.step for each in trajectory.chosen]


def reasons(trajectory: Trajectory) -> dict[str, str]:
    return {each.name: each.reason for each in trajectory.left_alone}


def test_whole_checkpoints_are_chosen_and_known_by_content(tmp_path: Path, home: Home) -> None:
    run = tmp_path / "run"
    directories = write_run(run)
    first = find(run, home)
    assert steps(first) == list(STEPS)
    assert [each.reference for each in first.chosen] == list(map(str, directories))
    assert len({each.identity for each in first.chosen}) == 3
    assert find(run, home) == first
    weights = directories[1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert find(run, home).chosen[1].identity != first.chosen[1].identity


def test_checkpoints_that_are_not_whole_are_left_alone_with_the_reason(
    tmp_path: Path, home: Home
) -> None:
    directories = write_run(tmp_path, shards=2)
    next(directories[2].glob("*-00002-*")).unlink()
    (directories[0] / "trainer_state.json").unlink()
    found = find(tmp_path, home)
    assert steps(found) == [20]
    assert found.found == 3
    assert "is missing" in reasons(found)["checkpoint-30"]
    assert reasons(found)["checkpoint-10"] == "it has no trainer_state.json yet"


def test_a_checkpoint_of_another_run_is_left_alone_by_its_log(tmp_path: Path, home: Home) -> None:
    directories = write_run(tmp_path)
    write_state(directories[1], 20, [(10, 2.9), (20, 1.5)])
    found = find(tmp_path, home)
    assert steps(found) == [10, 30]
    assert "not the beginning of checkpoint-30's" in reasons(found)["checkpoint-20"]


def test_the_best_are_chosen_by_the_metric_that_the_trainer_logged(
    tmp_path: Path, home: Home
) -> None:
    write_run(tmp_path)
    best = find(tmp_path, home, Choice(best=2, higher_is_better=True))
    assert [(each.step, each.metric) for each in best.chosen] == [(10, 2.9), (20, 2.8)]
    other = find(tmp_path, home, Choice(best=2, metric="eval_accuracy"))
    assert steps(other) == []
    assert set(reasons(other).values()) == {
        f"no eval_accuracy was logged at step {step}" for step in STEPS
    }


def test_a_run_that_does_not_exist_is_told(tmp_path: Path, home: Home) -> None:
    with pytest.raises(CheckpointError, match="no such directory"):
        find(tmp_path / "gone", home)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with `org/run`, which has a branch for each of three checkpoints."""
    directories = write_run(tmp_path / "shelf", shards=2)
    commits = {f"step{step}": f"{step:040x}" for step in STEPS}
    snapshots = dict(zip(commits.values(), directories, strict=True))
    branches = {"main": "a" * 40, **commits, "experiment": "b" * 40}
    with serve_hub(Hub({"org/run": directories[2]}, branches, snapshots)) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        yield served


def test_revisions_that_match_the_pattern_are_the_checkpoints_of_a_repository(
    hub: Hub, home: Home
) -> None:
    found = find("org/run", home, pattern="step*")
    assert steps(found) == list(STEPS)
    assert [each.reference for each in found.chosen] == [f"org/run@{s:040x}" for s in STEPS]
    assert hub.weights_sent < 100_000, "headers, not weights"
    hub.branches["step40"] = hub.branches["step30"]
    assert steps(find("org/run", home, Choice(last=2), pattern="step{step}")) == [30, 40]


def test_a_revision_whose_upload_is_not_finished_is_left_alone(hub: Hub, home: Home) -> None:
    commit = hub.branches["step30"]
    begun = hub.snapshots[commit].with_name("begun")
    shutil.copytree(hub.snapshots[commit], begun)
    next(begun.glob("*-00002-*")).unlink()
    hub.snapshots[commit] = begun
    found = find("org/run", home, pattern="step*")
    assert steps(found) == [10, 20]
    assert reasons(found)["step30"] == "1 of the 2 shards are missing"


def test_a_hub_that_is_away_is_no_reason_to_leave_checkpoints_alone(hub: Hub, home: Home) -> None:
    hub.unavailable = 100
    with pytest.raises(HubUnreachableError):
        find("org/run", home, pattern="step*")
