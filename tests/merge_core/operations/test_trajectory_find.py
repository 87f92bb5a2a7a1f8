"""Checkpoints of a run: found by step, chosen, and left alone while they are being written."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from merge_core.checkpoints.sources import describe_source
from merge_core.errors import RecipeError
from merge_core.files.digests import DigestMemo
from merge_core.operations.trajectory.find import checkpoints_in, step_of, why_unfinished
from merge_core.operations.trajectory.path import measure_path
from merge_core.operations.trajectory.records import RunCheckpoint
from merge_core.operations.trajectory.select import Choice, choose
from merge_core.operations.trajectory.trainer_state import TrainerState, read_trainer_state
from tests.support.checkpoints import write_checkpoint
from tests.support.tiny_llama import base_weights, fine_tuned, write_llama


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A complete checkpoint of three shards, written an hour ago."""
    directory = tmp_path / "run" / "checkpoint-10"
    write_checkpoint(directory, base_weights(), shards=3)
    (directory / "config.json").write_text("{}")
    return directory


def unfinished(directory: Path, *, marker: str | None = None, age: float = 3600) -> str | None:
    """Why a checkpoint is left alone when its last change was `age` seconds ago."""
    now = time.time() + age
    return why_unfinished(directory, marker=marker, settle_seconds=60, now=now)


def cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:count])


def shards(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("name", "pattern", "step"),
    [
        ("checkpoint-500", "checkpoint-*", 500),
        ("checkpoint-last", "checkpoint-*", None),
        ("stage1-step1000-tokens5B", "stage1-*", 1000),
        ("step_0000042", "step*", 42),
        ("v2-at-7", "v2-at-*", None),
        ("v2-at-7", "v2-at-{step}", 7),
        ("epoch3-checkpoint-70-shard1", "*", 70),
        ("run 12", "run*", 12),
    ],
)
def test_the_step_is_read_from_the_name(name: str, pattern: str, step: int | None) -> None:
    assert step_of(name, pattern) == step


@pytest.mark.parametrize("pattern", ["", "a/b", "{step}-{step}"])
def test_a_pattern_that_is_none_is_refused(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(RecipeError, match="no pattern of checkpoint names"):
        checkpoints_in(tmp_path, pattern)


def test_checkpoints_are_found_by_rising_step_and_what_has_none_is_told(tmp_path: Path) -> None:
    for name in ("checkpoint-900", "checkpoint-1000", "checkpoint-last", "checkpoint-best", "logs"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-2000").write_text("a file")
    state = json.dumps({"global_step": 1000, "log_history": []})
    (tmp_path / "checkpoint-last" / "trainer_state.json").write_text(state)
    found, left_alone = checkpoints_in(tmp_path, "checkpoint-*")
    assert [(each.step, each.name) for each in found] == [
        (900, "checkpoint-900"),
        (1000, "checkpoint-1000"),
    ]
    assert {each.name: each.reason for each in left_alone} == {
        "checkpoint-best": "neither its name nor a trainer_state.json tells its step",
        "checkpoint-last": "step 1000 is checkpoint-1000",
    }


def test_a_whole_checkpoint_counts_once_it_has_settled(whole: Path) -> None:
    assert unfinished(whole) is None
    assert "changed" in str(unfinished(whole, age=30))
    assert "changed" in str(unfinished(whole, age=-500)), "a clock that runs behind"


def test_a_copy_that_keeps_old_times_has_to_settle_too(whole: Path) -> None:
    for path in (*whole.iterdir(), whole):
        os.utime(path, (0, 0))
    assert "changed" in str(unfinished(whole, age=30))


def test_a_marker_stands_for_settling(whole: Path) -> None:
    assert (
        unfinished(whole, marker="trainer_state.json", age=0) == "it has no trainer_state.json yet"
    )
    (whole / "trainer_state.json").write_text("{}")
    assert unfinished(whole, marker="trainer_state.json", age=0) is None


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: shards(d)[1].unlink(), "is missing"),
        (lambda d: cut(shards(d)[2], -1 + shards(d)[2].stat().st_size), "truncated"),
        (lambda d: cut(shards(d)[0], 20), ""),
        (lambda d: cut(shards(d)[0], 0), ""),
        (lambda d: cut(d / "model.safetensors.index.json", 40), "not JSON"),
        (lambda d: (d / "model.safetensors.index.json").unlink(), "weight files"),
        (lambda d: (d / "config.json").unlink(), "config.json"),
        (lambda d: shutil.rmtree(d), ""),
    ],
)
@pytest.mark.parametrize("marker", [None, "done"])
def test_what_is_not_whole_is_left_alone_however_old_it_is(
    whole: Path, damage: Callable[[Path], Any], said: str, marker: str | None
) -> None:
    (whole / "done").touch()
    damage(whole)
    reason = unfinished(whole, marker=marker)
    assert reason
    assert said in reason


def test_a_checkpoint_is_left_alone_at_every_moment_of_its_writing(
    whole: Path, tmp_path: Path
) -> None:
    """Written byte by byte in the worst order: the index and the headers first, nothing settled."""
    target = tmp_path / "writing"
    target.mkdir()
    order = [whole / "model.safetensors.index.json", *shards(whole), whole / "config.json"]
    moments = 0
    for path in order:
        content = path.read_bytes()
        for end in sorted({0, 8, 100, len(content) // 2, len(content) - 1, len(content)}):
            if (path, end) == (order[-1], len(content)):
                break
            (target / path.name).write_bytes(content[:end])
            if path != order[-1]:
                assert unfinished(target) is not None, (path.name, end)
            moments += 1
    assert moments > 25
    (target / "config.json").write_bytes((whole / "config.json").read_bytes())
    assert unfinished(target) is None


def run_of(*steps: int) -> list[RunCheckpoint]:
    return [RunCheckpoint(step=each, name=f"c{each}", reference=f"/run/c{each}") for each in steps]


def chosen_steps(
    choice: dict[str, Any], broken: tuple[int, ...] = (), metrics: dict[int, float] | None = None
) -> list[int]:
    found, _ = choose(
        run_of(10, 20, 30, 40, 50, 60),
        Choice.model_validate(choice),
        lambda each: "broken" if each.step in broken else None,
        lambda each: (metrics or {}).get(each.step),
    )
    return [each.step for each in found]


METRICS = {10: 3.0, 20: 1.0, 30: 2.0, 40: 2.5, 60: 0.5}


@pytest.mark.parametrize(
    ("choice", "steps"),
    [
        ({}, [20, 30, 40, 50, 60]),
        ({"last": 2}, [50, 60]),
        ({"last": None}, [10, 20, 30, 40, 50, 60]),
        ({"every": 2}, [20, 40, 60]),
        ({"every": 4, "last": None}, [20, 60]),
        ({"from_step": 30, "to_step": 50}, [30, 40, 50]),
        ({"from_step": 61}, []),
        ({"last": 2, "every": 2, "to_step": 50}, [30, 50]),
        ({"last": None, "best": 2}, [20, 60]),
        ({"last": 4, "best": 2}, [30, 60]),
        ({"last": None, "best": 2, "higher_is_better": True}, [10, 40]),
    ],
)
def test_the_choice_is_window_then_every_then_last_then_best(
    choice: dict[str, Any], steps: list[int]
) -> None:
    assert chosen_steps(choice, metrics=METRICS) == steps


def test_the_place_of_a_broken_checkpoint_goes_to_another() -> None:
    assert chosen_steps({"last": 3}, broken=(60, 40)) == [20, 30, 50]
    assert chosen_steps({"last": 3}, broken=(10, 20, 30, 40, 50, 60)) == []


def test_one_that_is_not_chosen_is_never_examined() -> None:
    examined: list[int] = []
    choose(
        run_of(*range(100)), Choice(last=3), lambda each: examined.append(each.step), lambda _: 0
    )
    assert examined == [97, 98, 99]


def test_a_window_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValidationError, match="after to_step"):
        Choice(from_step=5, to_step=4)


def log(*losses: float) -> TrainerState:
    rows = [{"step": 10 * n, "loss": loss} for n, loss in enumerate(losses, 1)]
    return TrainerState(10 * len(losses), tuple(rows))


def test_a_log_continues_what_it_begins_with() -> None:
    assert log(3.0, 2.0, float("nan")).continues(log(3.0, 2.0, float("nan")))
    assert log(3.0, 2.0, 1.0).continues(log(3.0, 2.0))
    assert log(3.0).continues(TrainerState(None, ()))
    assert not log(3.0, 2.0, 1.0).continues(log(3.0, 2.1))
    assert not log(3.0, 2.0).continues(log(3.0, 2.0, 1.0))


def test_a_metric_is_that_of_the_checkpoints_own_step(tmp_path: Path) -> None:
    rows = [
        {"step": 10, "loss": 3.0},
        {"step": 10, "eval_loss": 2.5},
        {"step": 20, "eval_loss": 2.0},
        {"step": 30, "eval_loss": float("nan")},
    ]
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"global_step": 30, "log_history": rows}))
    state = read_trainer_state(path)
    assert state is not None
    assert [state.metric("eval_loss", step) for step in (10, 20, 30, 40)] == [2.5, 2.0, None, None]
    path.write_text("{")
    assert read_trainer_state(path) is None


def walk(directory: Path, steps: int, seed: int) -> list[Path]:
    """Checkpoints of a made-up run that moves in a direction and shakes."""
    weights, paths = base_weights(), []
    for number in range(steps):
        weights = fine_tuned(weights, seed + number)
        paths.append(directory / f"checkpoint-{number}")
        write_llama(paths[-1], weights)
    return paths


def path_of(paths: list[Path]) -> Any:
    memo = DigestMemo(None)
    sources = [describe_source(path.name, path, memo) for path in paths]
    return measure_path(sources, [path.name for path in paths])


def test_the_checkpoints_of_a_run_lie_on_its_path(tmp_path: Path) -> None:
    report = path_of(walk(tmp_path, 6, seed=0))
    assert report.distances[0] is None
    assert all(0.005 < distance < 0.1 for distance in report.distances[1:])
    assert report.warnings == ()


@pytest.mark.parametrize("place", [2, 5])
def test_a_checkpoint_of_another_run_of_the_same_base_is_off_the_path(
    tmp_path: Path, place: int
) -> None:
    paths = walk(tmp_path / "run", 6, seed=0)
    far = fine_tuned(base_weights(), 99, scale=0.03)
    shutil.rmtree(paths[place])
    write_llama(paths[place], far)
    report = path_of(paths)
    assert len(report.warnings) == 1
    assert report.warnings[0].startswith(f"checkpoint-{place} ")
    assert "another run" in report.warnings[0]
