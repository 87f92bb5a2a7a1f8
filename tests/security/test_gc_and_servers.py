"""Servers that used a store: which address means which database, and what happens while one is
down. The test with a real server is slow: `make sessions`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests

from flows.cli import program
from merge_core.homes.home import Home
from tasks.registry.client import ensure_experiment, open_registry
from tasks.registry.memory import canonical, known_registries, note_registry, note_store_of
from tasks.servers.stack_record import StackRecord, write_record
from tests.support.merge_store import Store, clear_away, merge_store
from tests.support.registrations import empty_registry, unsynced_sqlite
from tests.support.registry_contents import free_port


@pytest.fixture(scope="module", autouse=True)
def _quick_database() -> Iterator[None]:
    with unsynced_sqlite():
        yield


@pytest.fixture
def store(
    tmp_path: Path,
    home: Home,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Store]:
    """A store beside the home's own, empty database."""
    registry = empty_registry(home.mlflow, tmp_path_factory.getbasetemp() / "template.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield merge_store(tmp_path, home, registry)
    clear_away(home)


def gc(*arguments: str) -> int:
    return program.run(["gc", "--yes", "--keep", "0", "--older-than", "0m", *arguments])


def stack_runs(home: Home, address: str, *, pid: int | None = None, ago: float = 0.0) -> None:
    """Write down what a `mergeflow up` writes of itself; this process stands for it."""
    process = psutil.Process(pid or os.getpid())
    write_record(home, StackRecord("x", process.pid, process.create_time() - ago, "", address, "/"))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("http://User:secret@Host:80/", "http://host"),
        ("https://host:443/mlflow/", "https://host/mlflow"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("http://host:5000?token=secret", "http://host:5000"),
        ("sqlite:////tmp/../tmp/x.db?timeout=5", "sqlite:////tmp/x.db"),
        ("http://host:no-port", "http://host:no-port"),
    ],
)
def test_one_registry_has_one_address_and_no_password(home: Home, written: str, meant: str) -> None:
    assert canonical(home, written) == meant


def test_a_server_of_mergeflow_up_is_the_home_s_own_database_whatever_its_port(
    home: Home,
) -> None:
    stack_runs(home, "http://127.0.0.1:5123")
    assert canonical(home, "http://localhost:5123/") == "embedded"
    assert canonical(home, f"sqlite:///{home.mlflow}/mlflow.db") == "embedded"
    assert canonical(home, "http://127.0.0.1:5124") == "http://127.0.0.1:5124"
    stack_runs(home, "http://127.0.0.1:5123", ago=60)
    assert canonical(home, "http://127.0.0.1:5123") == "http://127.0.0.1:5123", (
        "a `mergeflow up` that was killed says nothing about who has its port now"
    )


def test_nothing_goes_while_the_server_of_databases_in_stack_yaml_is_down(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = store.merged(1)
    store.home.stack_file.write_text("prefect_database: postgresql://h/p\n")
    stack_runs(store.home, "http://127.0.0.1:5123")
    assert canonical(store.home, "http://127.0.0.1:5123") == "stack"
    (store.home.stack / "stack.json").unlink()
    for arguments in ([], ["--no-registry"]):
        assert gc(*arguments) == 1
        assert "start `mergeflow up`" in " ".join(capsys.readouterr().err.split())
    assert store.objects() == {merged.object_id}


def test_a_registry_that_was_forgotten_is_known_again_when_it_is_used_again(home: Home) -> None:
    home.path.mkdir()
    note_registry(home, "http://server:5000")
    assert program.run(["gc", "--forget-registry", "http://server:5000"]) == 0
    assert known_registries(home) == []
    note_registry(home, "http://server:5000")
    assert [each.address for each in known_registries(home)] == ["http://server:5000"]


@dataclass
class Server:
    """A real MLflow server on a port of its own."""

    directory: Path
    database: str
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and return when it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1", "--enable-workspaces"]
        command += ["--backend-store-uri", self.database]
        command += ["--artifacts-destination", str(self.directory / "artifacts")]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command, env=os.environ | quiet, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while not self._answers():
            assert time.monotonic() < deadline, (self.directory / "log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        """End it at once."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.address}/health", timeout=1).ok
        except requests.exceptions.RequestException:
            return False


@pytest.fixture
def server(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that runs, with a database of its own."""
    directory = tmp_path / "server"
    database = empty_registry(directory, tmp_path_factory.getbasetemp() / "template.db")
    found = Server(directory, database, free_port())
    found.start()
    yield found
    found.stop()


@pytest.mark.slow
def test_a_server_is_waited_for_and_asked_in_each_of_its_workspaces(
    store: Store, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow.utils.workspace_context import WorkspaceContext

    ours, theirs, in_files, useless = (store.merged(weight) for weight in (1, 2, 3, 4))
    with open_registry(server.address, writing=True) as registry:
        client, experiment = registry.client, ensure_experiment(registry, "merges")
        note_store_of(ours.path, server.address, registry, experiment)
        client.create_registered_model("ours")
        model = client.create_logged_model(experiment, tags={"mergeflow.digest": ours.digest})
        client.finalize_logged_model(model.model_id, "READY")
        client.create_model_version("ours", f"models:/{model.model_id}", model_id=model.model_id)
        client.create_workspace("team")
        (tmp_path / "files").mkdir()
        (tmp_path / "files" / "MLmodel").write_text(f"source_model_name: {in_files.path}\n")
        with WorkspaceContext("team"):
            other = client.create_experiment("theirs")
            for name, tags in (("theirs", {"path": theirs.path}), ("files", {})):
                made = client.create_logged_model(other, tags=tags)
                if name == "files":
                    client.log_model_artifacts(made.model_id, str(tmp_path / "files"))
                client.finalize_logged_model(made.model_id, "READY")
                client.create_registered_model(name)
                source = f"models:/{made.model_id}"
                client.create_model_version(name, source, model_id=made.model_id)
    everything = {each.object_id for each in (ours, theirs, in_files, useless)}
    server.stop()
    assert gc() == 1
    assert f"--forget-registry {server.address}" in " ".join(capsys.readouterr().err.split())
    assert store.objects() == everything
    server.start()
    assert gc("--empty-quarantine") == 0
    shown = capsys.readouterr().out
    assert f"models:/theirs/1 in workspace team at {server.address}" in shown
    assert store.objects() == everything - {useless.object_id}
