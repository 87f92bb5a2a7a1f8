"""Commands that read a registry, or move its alias, where it is away, locked or not there: the
advice is about the command that was typed, and nothing is made."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from flows.cli import program
from merge_core.homes.home import Home
from tasks.signing.keys import make_key_pair

COMMANDS = {
    "audit": ["audit", "models:/zoo@champion"],
    "audit --all": ["audit", "--all"],
    "sign": ["sign", "models:/zoo@champion"],
    "lineage": ["lineage", "models:/zoo@champion"],
    "lineage --contains": ["lineage", "--contains", "models:/zoo/1"],
    "diff": ["diff", "models:/zoo/1", "models:/zoo/2"],
    "history": ["history", "zoo"],
    "promote": ["promote", "zoo", "2", "--why", "tried"],
    "rollback": ["rollback", "zoo", "--why", "slow"],
    "unpin": ["unpin", "zoo"],
    "reproduce": ["reproduce", "models:/zoo/1"],
    "verify": ["verify", "recipe.yaml"],
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MERGEFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    make_key_pair(Home(tmp_path / "home"), "release")
    models = "[{model: 'models:/zoo/1'}, {model: 'models:/zoo/2'}]"
    (tmp_path / "recipe.yaml").write_text(f"merge_method: linear\nmodels: {models}\n")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_that_is_away(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert program.run(COMMANDS[command]) == 1
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "error: http://127.0.0.1:9: the MLflow server does not answer (ConnectionError)",
        "  what to do: start it, or check the address, and run the same command again",
    ]


@pytest.mark.slow  # a database may be busy for five seconds
@pytest.mark.parametrize("command", COMMANDS)
def test_a_database_that_another_program_writes(
    command: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/mlflow.db")
    with contextlib.closing(sqlite3.connect(here / "mlflow.db", isolation_level=None)) as other:
        other.execute("CREATE TABLE t (x)")
        other.execute("BEGIN EXCLUSIVE")
        assert program.run(COMMANDS[command]) == 1
    assert capsys.readouterr().err.splitlines()[-2:] == [
        f"error: {here}/mlflow.db: the MLflow database is locked by another program",
        "  what to do: wait until it is done, and run the same command again",
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_database_yet(
    command: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/mlflow.db")
    assert program.run(COMMANDS[command]) == 2
    assert "nothing has been registered yet" in capsys.readouterr().err
    assert not (here / "mlflow.db").exists()
