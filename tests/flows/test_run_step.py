"""Steps of a flow: retries that help, checked cache hits, the slot of a GPU, work side by side."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from prefect import flow, get_client
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from flows import gpu_slot as flow_steps
from flows.gpu_slot import device_slot
from flows.run_step import run_step, run_together
from flows.settings.pipeline import Pipeline
from flows.stack.prefect_session import PrefectSession
from flows.steps import merge
from merge_core.errors import CheckpointError
from merge_core.homes.home import Home
from merge_core.records import SourceCheckpoint
from tasks.processes.child import ChildEnd, run_child
from tasks.resolve import preflight_task
from tests.support.hub_server import Hub, serve_hub
from tests.support.recorded_steps import recorded_steps
from tests.support.tiny_llama import base_weights, fine_tuned, write_llama


@pytest.fixture
def session(prefect: PrefectSession, home: Home) -> Iterator[PrefectSession]:
    """Prefect, with step results in the test's own home."""
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: str(home.cache)}):
        yield prefect


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with `org/base` and its fine-tune `org/tuned`."""
    weights = base_weights()
    write_llama(tmp_path / "hub" / "base", weights)
    write_llama(tmp_path / "hub" / "tuned", fine_tuned(weights, 1))
    repositories = {f"org/{name}": tmp_path / "hub" / name for name in ("base", "tuned")}
    with serve_hub(Hub(repositories)) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield served


def preflight(references: list[str], home: Home) -> object:
    """`preflight_task` in a flow, without the waits between its tries."""
    task = preflight_task.with_options(retry_delay_seconds=0)

    @flow
    def looking() -> object:
        return run_step(task, references, home.path, subject="test")

    return looking()


def test_a_hub_that_is_away_for_a_moment_is_asked_again(
    session: PrefectSession, hub: Hub, home: Home
) -> None:
    hub.unavailable = 2
    preflight(["org/base"], home)
    assert hub.unavailable == 0


def test_a_mistake_is_not_tried_again(session: PrefectSession, hub: Hub, home: Home) -> None:
    with pytest.raises(CheckpointError, match="no such repository"):
        preflight(["org/bse"], home)
    assert len([asked for asked in hub.requests if asked.startswith("GET")]) == 1


def test_a_download_that_was_removed_is_fetched_again_and_the_rest_is_not(
    session: PrefectSession, hub: Hub, home: Home
) -> None:
    pipeline = Pipeline.model_validate(
        {
            "name": "mine",
            "recipe": {
                "merge_method": "linear",
                "models": [
                    {"model": f"org/{name}", "parameters": {"weight": 1}}
                    for name in ("base", "tuned")
                ],
            },
            "evaluate": {"suite": "starter"},
        }
    )

    @flow
    def resolving() -> dict[str, SourceCheckpoint]:
        return merge.resolve(pipeline, home, None).sources

    first = resolving()
    weights = Path(first["org/tuned"].path, "model.safetensors")
    weights.resolve().unlink()
    weights.unlink()
    with recorded_steps() as steps:
        assert resolving() == first
    outcomes = [(name, outcome == "cached") for name, outcome in steps.all if "resolve" in name]
    assert outcomes == [("resolve base", True), ("resolve tuned", True), ("resolve tuned", False)]
    assert weights.is_file()


def test_a_gpu_has_one_slot_which_is_free_again_afterwards(
    session: PrefectSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_steps, "resolved_device_kind", lambda _: "cuda")
    monkeypatch.setattr(flow_steps, "machine_name", lambda: "host-of-the-test")
    inside = 0
    most = 0

    def job() -> int:
        nonlocal inside, most
        with device_slot("auto"):
            inside += 1
            most = max(most, inside)
            with get_client(sync_client=True) as client:
                limit = client.read_global_concurrency_limit_by_name("gpu:host-of-the-test")
            inside -= 1
        return limit.active_slots

    @flow
    def working() -> list[int]:
        return run_together([job, job], 2)

    assert working() == [1, 1]
    assert most == 1
    with get_client(sync_client=True) as client:
        assert client.read_global_concurrency_limit_by_name("gpu:host-of-the-test").limit == 1


def test_jobs_run_side_by_side_and_answer_in_order() -> None:
    meeting = threading.Barrier(2)

    def job(number: int) -> int:
        meeting.wait(10)
        return number

    assert run_together([lambda: job(1), lambda: job(2)], 2) == [1, 2]


def test_a_failure_ends_the_children_that_others_wait_for(tmp_path: Path) -> None:
    (tmp_path / "sleeps.py").write_text("import time; time.sleep(60)")
    started = time.monotonic()

    def waits() -> ChildEnd:
        return run_child(
            "sleeps",
            {},
            log=tmp_path / "log",
            timeout=60,
            environment={**os.environ, "PYTHONPATH": str(tmp_path)},
            on_message=lambda _: None,
        )

    def fails() -> ChildEnd:
        time.sleep(1)
        raise CheckpointError("the test's own")

    with pytest.raises(CheckpointError, match="the test's own"):
        run_together([fails, waits], 2)
    assert time.monotonic() - started < 30
