"""What is kept of a run, and what of it is read again: nothing that names code."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from prefect import Flow, Task, flow, task
from prefect.client.schemas.objects import State, StateType
from prefect.results import ResultRecordMetadata
from prefect.serializers import PickleSerializer
from prefect.settings import (
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_RESULTS_DEFAULT_SERIALIZER,
    PREFECT_RESULTS_PERSIST_BY_DEFAULT,
    temporary_settings,
)

import flows
import tasks
from flows.merge import merge_pipeline
from flows.run_step import UNSTORED, answer_of, run_step
from flows.settings.pipeline import Pipeline
from flows.stack.prefect_session import PrefectSession, server_environment
from flows.steps.merge import _picture
from merge_core.errors import StepError
from merge_core.homes.home import Home
from merge_core.operations.profile import TaskVectorProfile
from merge_core.operations.trajectory.records import RunCheckpoint
from merge_core.records import CheckpointManifest, Record
from tasks.caching.content_task import ContentKey, content_task
from tasks.caching.record_storage import RecordStorage
from tasks.registry.past_averages import AverageRecord, averages_of, keep_average
from tasks.resolve import resolve_task
from tasks.sources.locate import Location
from tests.support.former_records import former
from tests.support.recorded_steps import recorded_steps

DECORATED = re.compile(r"^(@|\w+ = )(task|flow|content_task)\b", re.MULTILINE)


@pytest.fixture
def session(prefect: PrefectSession, home: Home) -> Iterator[PrefectSession]:
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: str(home.cache)}):
        yield prefect


def test_every_step_is_cached_by_content_or_not_at_all_and_no_flow_is() -> None:
    found: dict[str, Task[Any, Any] | Flow[Any, Any]] = {}
    for package in (tasks, flows):
        root = Path(package.__path__[0])
        for path in root.rglob("*.py"):
            if not DECORATED.search(path.read_text()):
                continue
            name = ".".join(path.relative_to(root.parent).with_suffix("").parts)
            module = importlib.import_module(name)
            for value in vars(module).values():
                if isinstance(value, Task | Flow):
                    found[value.name] = value
    assert {"resolve", "merge", "evaluate", "decide", "average-checkpoints"} <= found.keys()
    for name, each in found.items():
        if isinstance(each, Flow):
            assert each.persist_result is False, name
            assert each.result_serializer == "json", name
        else:
            by_content = isinstance(each.cache_policy, ContentKey)
            assert by_content or each.persist_result is False, name


def test_a_step_that_prefect_would_keep_in_its_own_way_is_not_run(session: PrefectSession) -> None:
    @task
    def forgotten() -> int:
        raise AssertionError("it ran")

    @flow
    def running() -> None:
        run_step(forgotten)

    with pytest.raises(TypeError, match="neither cached by content"):
        running()


@pytest.fixture
def keeping_everything(session: PrefectSession) -> Iterator[None]:
    """A profile by which Prefect keeps every result, as a pickle."""
    keeping = {
        PREFECT_RESULTS_PERSIST_BY_DEFAULT: True,
        PREFECT_RESULTS_DEFAULT_SERIALIZER: "pickle",
    }
    with temporary_settings(keeping):
        yield


def files_below(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


@pytest.mark.usefixtures("keeping_everything")
def test_no_result_of_a_flow_is_kept_whatever_a_profile_says(home: Home) -> None:
    pipeline = Pipeline.model_validate(
        {
            "name": "mine",
            "recipe": {"merge_method": "linear", "models": [{"model": "/nowhere"}]},
            "evaluate": {"suite": "starter"},
        }
    )
    state = merge_pipeline(pipeline, return_state=True)
    assert state.is_failed()
    assert files_below(home.cache) == []


@pytest.mark.usefixtures("keeping_everything")
def test_neither_is_what_a_failed_step_raises(home: Home) -> None:
    @flow(**UNSTORED)
    def resolving() -> None:
        place = Location(reference="x", directory="/nowhere")
        run_step(resolve_task, place, home.digest_memo)

    state = resolving(return_state=True)
    assert state.is_failed()
    for path in files_below(home.cache):  # Prefect's note of what the flow raised
        assert "__exc_type__" in json.loads(path.read_bytes()), "which is no pickle"
        assert not path.name.startswith("resolve")


class Answer(Record):
    number: int


def _is_one(answer: Answer, /, **_others: object) -> bool:
    return answer.number == 1


@content_task("nesting", version=1, key=lambda about: about, fits=_is_one)
def nesting(about: str) -> Answer:
    """A step that runs a flow of its own, as a merge on a Dask cluster does."""

    @task
    def inner_task() -> int:
        return 1

    @flow
    def inner() -> int:
        return inner_task()

    return Answer(number=inner())


@pytest.mark.usefixtures("keeping_everything")
def test_nothing_is_kept_of_what_runs_inside_a_step(home: Home) -> None:
    @flow(**UNSTORED)
    def running() -> Answer:
        return run_step(nesting, "key")

    assert running() == Answer(number=1)
    assert [path.name for path in files_below(home.cache)] == ["nesting-v1-key"]
    with recorded_steps() as steps:
        running()
    assert steps.all == [("nesting", "cached")]


def test_a_storage_that_was_sent_to_another_machine_keeps_and_finds_nothing() -> None:
    sent = RecordStorage.model_validate(RecordStorage.of(Path("/a"), Record, bool).model_dump())
    with pytest.raises(FileNotFoundError):
        sent.read_path("a")
    sent.write_path("a", b"{}")
    assert sent._resolve_path("a") is None


class Touch:
    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self._marker}'",)


def test_an_answer_that_a_server_points_to_is_not_loaded(
    session: PrefectSession, tmp_path: Path
) -> None:
    marker, planted = tmp_path / "attacked", tmp_path / "planted"
    serializer = PickleSerializer()
    metadata = ResultRecordMetadata(serializer=serializer, storage_key=str(planted))
    content = {
        "metadata": json.loads(metadata.dump_bytes()),
        "result": serializer.dumps(Touch(marker)).decode(),
    }
    planted.write_text(json.dumps(content))
    assert cloudpickle  # what Prefect reads it with
    state: State[Any] = State(type=StateType.COMPLETED, data=metadata)
    with pytest.raises(StepError, match="the Prefect server says"):
        answer_of(state)
    assert not marker.exists()
    state.result()
    assert marker.exists(), "the attack is one"


LOGGING = """
version: 1
disable_existing_loggers: false
formatters:
  any: {(): subprocess.getoutput, cmd: "touch 'MARKER'"}
"""


@pytest.mark.parametrize("place", ["home", ".env"])
def test_prefect_takes_its_logging_from_no_planted_file(
    home: Home, tmp_path: Path, place: str
) -> None:
    marker, here = tmp_path / "attacked", tmp_path / "here"
    here.mkdir()
    home.prefect.mkdir(parents=True)
    file = (home.prefect if place == "home" else here) / "logging.yml"
    file.write_text(LOGGING.replace("MARKER", str(marker)))
    (here / "prefect.toml").write_text('[logging]\nconfig_path = "logging.yml"\n')
    if place == ".env":
        (here / place).write_text("PREFECT_LOGGING_CONFIG_PATH=logging.yml\n")
    root = str(Path(flows.__file__).parent.parent)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        "PREFECT_HOME": str(home.prefect),
        "PYTHONPATH": root,
    }
    command = [sys.executable, "-c", "import flows, prefect"]
    subprocess.run(command, cwd=here, env=environment, check=True, capture_output=True)
    assert not marker.exists()


def test_servers_and_workers_take_it_from_prefect_itself(home: Home) -> None:
    named = Path(
        server_environment(home, "http://127.0.0.1:1/api")["PREFECT_LOGGING_SETTINGS_PATH"]
    )
    assert named.is_file()
    assert not named.is_relative_to(home.path)


def average() -> AverageRecord:
    [manifest] = former("merge").values()
    assert isinstance(manifest, CheckpointManifest)
    seen = RunCheckpoint(step=1, name="checkpoint-1", reference="/a", identity="i")
    return AverageRecord(
        name="nightly", run="/run", settings="s", seen=(seen,), average=manifest, state="Promoted"
    )


@pytest.mark.timeout(30)
def test_a_record_of_an_average_is_read_only_where_it_was_written(
    home: Home, tmp_path: Path
) -> None:
    record, directory = average(), home.averages / "nightly"
    keep_average(home, record)
    [kept] = directory.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    content = kept.read_bytes()
    (directory / "copied.json").write_bytes(content)
    (directory / "link.json").symlink_to(kept)
    (directory / "nothing.json").symlink_to(tmp_path / "nothing")
    (directory / "directory.json").mkdir()
    os.mkfifo(directory / "fifo.json")
    (directory / "damaged.json").write_bytes(b"[" * 100_000)
    with (directory / "endless.json").open("wb") as file:
        file.truncate(1 << 30)
    (home.averages / "weekly").mkdir()
    (home.averages / "weekly" / kept.name).write_bytes(content)
    assert averages_of(home, "nightly") == [record]
    assert averages_of(home, "weekly") == []


def test_a_link_in_the_place_of_a_picture_shows_nobody_what_it_leads_to(tmp_path: Path) -> None:
    [profile] = former("profile").values()
    assert isinstance(profile, TaskVectorProfile)
    secret, kept = tmp_path / "secret", tmp_path / "cache" / "profile.png"
    secret.write_bytes(b"\x89PNG\r\n\x1a\nsecret")
    kept.parent.mkdir()
    kept.symlink_to(secret)
    picture = _picture(profile, kept)
    assert b"secret" not in picture
    assert _picture(profile, kept) == picture
    kept.write_text("no picture")
    assert _picture(profile, kept) == picture
