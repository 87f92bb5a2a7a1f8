"""Homes that cannot be written, full disks, servers that are away: a sentence and a mend each, and
never a word of a bug."""

from __future__ import annotations

import errno
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.cli import program as cli
from flows.stack.prefect_session import PrefectSession
from flows.terminal.outside_faults import outside_fault
from merge_core.errors import HomeError, StepError
from tests.support.by_command import User
from tests.support.tiny_llama import base_weights, fine_tuned, write_llama

LAYERS = {"num_hidden_layers": 2}
BUG = "this is a bug in mergeflow"


@pytest.fixture
def user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> User:
    monkeypatch.chdir(tmp_path)
    base = base_weights()
    write_llama(tmp_path / "base", base, config=LAYERS)
    write_llama(tmp_path / "one", fine_tuned(base, 1), config=LAYERS)
    user = User(tmp_path, capsys)
    user.recipe(["./one"], base="./base")
    pipeline = {
        "name": "n",
        "recipe": "r.yaml",
        "evaluate": {"suite": "english-small"},
        "promote": {"max_regression": 0.01},
    }
    (tmp_path / "p.yaml").write_text(json.dumps(pipeline))
    return user


@pytest.mark.parametrize("command", ["run p.yaml", "status", "env", "gc", "home show"])
def test_a_home_that_is_a_file_is_called_so(
    command: str, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    (user.directory / "a-file").touch()
    monkeypatch.setenv("MERGEFLOW_HOME", str(user.directory / "a-file"))
    code, said = user.run(*command.split())
    assert (code, "this is no directory" in said, BUG in said) == (2, True, False), said


def test_a_home_in_which_a_file_is_in_the_way_is_not_a_bug(user: User, home: Any) -> None:
    assert user.run("verify", "r.yaml")[0] == 0
    (home.path / "prefect").write_text("in the way")
    code, said = user.run("run", "p.yaml")
    assert (code, BUG in said) == (2, False), said
    assert f"{home.path}/prefect: cannot be read or written: Not a directory" in said
    (home.path / "prefect").unlink()


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("http://127.0.0.1:9/api", "no Prefect server answers here"),
        ("nonsense", "this is no address of a Prefect server"),
    ],
)
def test_a_server_that_is_away_is_told_before_any_work(
    address: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    monkeypatch.setenv("PREFECT_API_URL", address)
    with (
        temporary_settings({PREFECT_API_URL: address, PREFECT_CLIENT_MAX_RETRIES: 0}),
        pytest.raises(StepError, match=told) as caught,
    ):
        PrefectSession(address, None).ready()
    assert "leave PREFECT_API_URL out" in str(caught.value.mend)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EMFILE])
def test_what_the_system_refuses_has_a_mend_however_deep_it_is(number: int) -> None:
    try:
        try:
            raise OSError(number, "said by the system", "/some/file")
        except OSError as error:
            raise RuntimeError("around it") from error
    except RuntimeError as error:
        fault = outside_fault(error)
    assert isinstance(fault, HomeError)
    assert fault.where == "/some/file"
    assert fault.mend


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        RuntimeError("can't start new thread"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"
        ),
    ],
    ids=repr,
)
def test_memory_and_threads_that_run_out_are_not_ours(error: Exception) -> None:
    fault = outside_fault(error)
    assert isinstance(fault, StepError)
    assert "free some memory" in str(fault.mend)


def test_a_full_database_and_a_server_that_breaks_off_are_not_ours() -> None:
    full = outside_fault(sqlite3.OperationalError("database or disk is full"))
    assert isinstance(full, HomeError)
    assert "free some space" in str(full.mend)
    assert isinstance(outside_fault(httpx.ReadTimeout("late")), StepError)
    assert isinstance(outside_fault(RuntimeError("Failed to reach API at http://x/")), StepError)


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("y"), RuntimeError("z"), OSError("w")])
def test_what_is_ours_is_still_called_a_bug(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(**_: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "app", broken)
    assert outside_fault(error) is None
    assert cli.run(["methods"]) == 1
    assert BUG in capsys.readouterr().err


def test_few_file_descriptors_are_made_more_up_to_what_is_allowed(tmp_path: Path) -> None:
    program = (
        "import resource, sys\n"
        "from merge_core.tensors.block_reader import BlockReader\n"
        "from pathlib import Path\n"
        "hard = int(sys.argv[2])\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (32, hard))\n"
        "with BlockReader() as reader:\n"
        "    for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "        reader.descriptor(path)\n"
    )
    for number in range(80):
        (tmp_path / f"{number}.safetensors").touch()

    def opened(hard: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program, str(tmp_path), str(hard)],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[2],
        )

    assert opened(256).returncode == 0
    refused = opened(48)
    assert refused.returncode == 1
    assert "Too many open files" in refused.stderr
    assert "ulimit -n" in refused.stderr
