"""A path that does not exist: not looked for on the Hub, and told with what was probably meant."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Failed

from merge_core.errors import CheckpointError
from merge_core.homes.home import Home
from tasks.hub_answers import HubAwayError, HubUnreachableError
from tasks.resolve import preflight_task
from tasks.sources.locate import locate
from tasks.sources.near_paths import nearest_directory
from tasks.sources.references import HubReference, LocalReference, parse_reference


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with runs/code and runs/prose, no network, and an empty Hub cache."""
    for name in ("runs/code", "runs/prose"):
        (tmp_path / "work" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "work"))
    monkeypatch.setenv("MERGEFLOW_ZOO", str(tmp_path / "work" / "runs"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "work"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def _run(count: int) -> TaskRun:
    return TaskRun(task_key="preflight", dynamic_key="0", run_count=count)


@pytest.mark.parametrize(
    "text",
    [
        "./runs/cod",
        "runs/cod",
        "runs/prode",
        "run/code",
        "./run/cdoe",
        "runs/code/checkpoint-1/last",
        "~/runs/cod",
        "$MERGEFLOW_ZOO/cod",
        "../work/runs/cod",
        "{here}/runs/cod",
        "runs/cod+runs/code",
    ],
)
def test_a_path_that_does_not_exist_is_told_at_once_with_what_is_near(
    here: Path, home: Home, text: str
) -> None:
    started = time.monotonic()
    with pytest.raises(CheckpointError) as told:
        locate(text.replace("{here}", str(here)), home)
    assert time.monotonic() - started < 5
    assert not isinstance(told.value, HubAwayError)
    near = "code" if "cod" in text.replace("prode", "") or "cdoe" in text else "prose"
    if "checkpoint" in text:
        assert "there is no such directory" in str(told.value)
    else:
        assert f"did you mean ./runs/{near}?" in str(told.value)


def test_without_a_near_one_what_there_is_is_listed(here: Path, home: Home) -> None:
    with pytest.raises(CheckpointError, match=r"runs holds code, prose"):
        locate("runs/xyzzy", home)


def test_a_repository_may_be_named_where_there_is_a_directory_of_its_owner(
    here: Path, home: Home
) -> None:
    with pytest.raises(CheckpointError, match="for the Hub, write its branch too: runs/model@main"):
        parse_reference("runs/model", None, home)
    assert parse_reference("runs/model@main", None, home) == HubReference("runs/model", "main")
    Path(constants.HF_HUB_CACHE, "models--runs--model").mkdir(parents=True)
    assert parse_reference("runs/model", None, home) == HubReference("runs/model", None)


def test_what_may_be_either_says_both_when_there_is_no_network(here: Path, home: Home) -> None:
    started = time.monotonic()
    with pytest.raises(CheckpointError) as told:
        locate("rusn/code", home)
    assert time.monotonic() - started < 5
    assert "no such directory here, and the Hub does not answer" in str(told.value)
    assert "did you mean ./runs/code? Otherwise: try again later" in str(told.value)
    with pytest.raises(HubAwayError):
        locate("meta-llama/Llama-3.2-1B", home)


def test_without_a_connection_there_is_one_more_try_and_no_long_wait() -> None:
    retry = preflight_task.retry_condition_fn
    assert retry is not None
    for error, more in ((HubAwayError("away"), 1), (HubUnreachableError("status 503"), 3)):
        state: State[Any] = Failed(data=error)
        again = [count for count in (1, 2, 3) if retry(preflight_task, _run(count), state)]
        assert len(again) == more


def test_a_directory_that_exists_is_taken(here: Path, home: Home) -> None:
    assert parse_reference("runs/code", None, home) == LocalReference(here / "runs" / "code")
    assert nearest_directory(here / "runs" / "code") is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("https://huggingface.co/org/name", "org/name"),
        ("https://huggingface.co/org/name/tree/main", "org/name"),
        ("huggingface.co/org/name/", "org/name"),
        ("hf.co/org/na.me", "org/na.me"),
        ("hf://org/name", "org/name"),
        ("https://huggingface.co/org/name/tree/v1.2", "org/name@v1.2"),
        ("https://huggingface.co/org/name/blob/abc/config.json", "org/name@abc"),
    ],
)
def test_the_address_of_a_repositorys_page_names_the_repository(
    text: str, named: str, here: Path, home: Home
) -> None:
    with pytest.raises(CheckpointError, match="address of a repository's page") as raised:
        parse_reference(text, here, home)
    assert raised.value.mend == f"write its name: {named}"
    repository, _, revision = named.partition("@")
    assert parse_reference(named, here, home) == HubReference(repository, revision or None)
