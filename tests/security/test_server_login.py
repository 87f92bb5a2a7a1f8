"""The servers' password: made once, for its owner's eyes, and given to no suite or model."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.cli import program
from flows.stack.config import read_stack_config
from merge_core.errors import MergeflowError
from merge_core.homes.home import Home
from tasks.averaging.checkpoint_saved import CheckpointSaved
from tasks.processes.child import run_child
from tasks.processes.model import model_environment
from tasks.processes.secret_variables import HUB_TOKENS
from tasks.servers.login import (
    SERVER_VARIABLE,
    Login,
    forget_login,
    home_login,
    keep_login,
    login_for_servers,
    password_file,
    stack_login,
    stack_login_file,
)
from tasks.servers.same_process import own_start_time
from tasks.servers.stack_record import StackRecord, write_record

ROOT = Path(__file__).parents[2]
MAKE = """
import os, sys
from pathlib import Path
from merge_core.homes.home import Home
from tasks.servers.login import home_login
os.umask(int(sys.argv[2], 8))
print(home_login(Home(Path(sys.argv[1]))).text)
"""


@pytest.fixture(autouse=True)
def _no_login_of_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests' Prefect server has put its own into the environment."""
    for name in (SERVER_VARIABLE, "PREFECT_API_AUTH_STRING", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("umask", ["0", "077", "0777"])
def test_commands_that_start_at_once_make_one_password_that_its_owner_alone_reads(
    tmp_path: Path, umask: str
) -> None:
    home = tmp_path / "home"
    command = [sys.executable, "-c", MAKE, str(home), umask]
    children = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    (said,) = {child.communicate()[0].strip() for child in children}
    name, _, password = said.partition(":")
    assert name == "mergeflow"
    assert len(password) >= 40
    file = password_file(Home(home))
    assert file.read_text().strip() == said
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert home_login(Home(tmp_path / "other")).text != said


def test_a_password_that_others_could_read_is_replaced_before_a_server_asks_for_it(
    home: Home,
) -> None:
    before = home_login(home)
    assert login_for_servers(home) == before
    password_file(home).chmod(0o644)
    after = login_for_servers(home)
    assert after != before
    assert stat.S_IMODE(password_file(home).stat().st_mode) == 0o600


def test_a_link_in_the_place_of_the_password_is_not_followed(home: Home, tmp_path: Path) -> None:
    home.path.mkdir()
    (tmp_path / "elsewhere").write_text("mergeflow:known-to-others")
    password_file(home).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MergeflowError, match="cannot be kept here"):
        home_login(home)


def test_the_users_own_login_is_honoured_and_known_to_other_commands_while_servers_ask_for_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, "admin:mine")
    own = login_for_servers(home)
    assert (own.user, own.password) == ("admin", "mine")
    keep_login(home, own)
    monkeypatch.delenv(SERVER_VARIABLE)
    assert stack_login(home) == own
    assert stat.S_IMODE(stack_login_file(home).stat().st_mode) == 0o600
    forget_login(home)
    assert stack_login(home) == home_login(home)
    assert stack_login_file(home) == password_file(home)
    assert login_for_servers(home) == home_login(home)


@pytest.mark.parametrize("text", ["pässword", "two\nlines", "admin:", ":mine", "a:b\x7f"])
def test_a_login_that_no_header_can_carry_is_refused_without_being_repeated(
    home: Home, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, text)
    with pytest.raises(MergeflowError, match="NAME:PASSWORD") as refused:
        login_for_servers(home)
    assert text not in str(refused.value)


def test_a_login_shows_itself_in_no_traceback_or_message(home: Home) -> None:
    login = home_login(home)
    assert login.password not in repr(login)
    assert login.password not in str([login])


def test_a_shell_gets_the_login_from_its_file_and_nothing_prints_it(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.run(["env"]) == 0
    printed = capsys.readouterr().out
    login = home_login(home)
    assert login.password not in printed
    script = f'{printed}\nprintf %s "$PREFECT_API_AUTH_STRING $PREFECT_SERVER_API_AUTH_STRING"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{login.text} {login.text}"


def test_a_shell_gets_the_login_of_both_servers_of_a_running_stack(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    record = StackRecord("x", os.getpid(), own_start_time(), "http://h:1", "http://h:2", "/")
    write_record(home, record)
    keep_login(home, Login("admin:it's my:own $word"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", record.mlflow)
    assert program.run(["env"]) == 0
    script = capsys.readouterr().out + "\nenv"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    said = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert said["PREFECT_API_AUTH_STRING"] == "admin:it's my:own $word"
    assert said["MLFLOW_TRACKING_USERNAME"] == "admin"
    assert said["MLFLOW_TRACKING_PASSWORD"] == "it's my:own $word"
    assert "my:own" not in script


def test_another_registry_of_the_users_is_not_given_the_stacks_login(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(
        home, StackRecord("x", os.getpid(), own_start_time(), "http://h:1", "http://h:2", "/")
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://elsewhere.example")
    assert program.run(["env"]) == 0
    assert "MLFLOW_TRACKING_PASSWORD" not in capsys.readouterr().out


SECRET = {
    "PREFECT_API_AUTH_STRING": "s3cret",
    "PREFECT_SERVER_API_AUTH_STRING": "s3cret",
    "PREFECT_API_KEY": "s3cret",
    "PREFECT__CONTROL_TOKEN": "s3cret",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://me:s3cret@h/prefect",
    "MLFLOW_TRACKING_PASSWORD": "s3cret",
    "MLFLOW_TRACKING_TOKEN": "s3cret",
    "MLFLOW_BACKEND_STORE_URI": "postgresql://me:s3cret@h/mlflow",
    "PGPASSWORD": "s3cret",
    "DATABASE_PASSWORD": "s3cret",
    "REDIS_URL": "redis://:s3cret@h",
    "DBPW": "s3cret",
    "ELEPHANT": "s3cret",
    "HTTPS_PROXY": "http://me:s3cret@proxy",
    "HF_TOKEN": "s3cret",
    "AWS_SECRET_ACCESS_KEY": "s3cret",
    "GH_TOKEN": "s3cret",
    "MY_API_KEY": "s3cret",
    "SMTP_PASS": "s3cret",
}
HARMLESS = {
    "CUDA_VISIBLE_DEVICES": "0",
    "HF_HOME": "/data/hf",
    "TOKENIZERS_PARALLELISM": "false",
    "LD_LIBRARY_PATH": "/opt/lib",
    "MERGEFLOW_STACK": "instance:worker",
    "PREFECT__FLOW_RUN_ID": "1234",
    "MY_DATA": "/data/mine",
    "HTTP_PROXY": "http://proxy:3128",
}


@pytest.mark.parametrize("kept", [(), HUB_TOKENS], ids=["suite", "suite with data on the Hub"])
def test_a_child_that_evaluates_or_calibrates_is_given_no_password(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: tuple[str, ...]
) -> None:
    home.path.mkdir()
    home.stack_file.write_text("prefect_database: postgresql://me:${ELEPHANT}@h/p\n")
    for name, value in {**SECRET, **HARMLESS}.items():
        monkeypatch.setenv(name, value)
    messages: dict[str, Any] = {}
    run_child(
        "tests.support.said_environment",
        {},
        log=tmp_path / "log",
        timeout=60,
        environment=model_environment(1, keep=kept),
        on_message=messages.update,
    )
    given: dict[str, str] = messages["environment"]
    assert {name for name, value in given.items() if "s3cret" in value} == set(kept) & set(SECRET)
    assert HARMLESS.items() <= given.items()
    assert given["PATH"] == os.environ["PATH"]


@contextmanager
def listener(*, moved_to: str | None = None) -> Iterator[tuple[str, list[str | None]]]:
    """A server's address, and what it was sent as a login."""
    received: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            received.append(self.headers["Authorization"])
            self.send_response(302 if moved_to else 204)
            if moved_to:
                self.send_header("Location", moved_to)
            self.end_headers()

        def do_GET(self) -> None:
            received.append(self.headers["Authorization"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", received
        server.shutdown()
        thread.join()


def save(address: str, run: Path, **settings: Any) -> None:
    """What the Trainer calls after a checkpoint."""
    state = SimpleNamespace(is_world_process_zero=True, global_step=5)
    callback = CheckpointSaved(f"{address}/api", **settings)
    callback.on_save(SimpleNamespace(output_dir=run), state, None)  # type: ignore[arg-type]


def test_the_callback_logs_in_from_the_environment_a_file_or_the_home(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("from:file\n")
    (tmp_path / "file").chmod(0o600)
    (tmp_path / "open").write_text("from:open file\n")
    (tmp_path / "open").chmod(0o644)
    with listener() as (address, received):
        save(address, tmp_path)
        home_login(home)
        save(address, tmp_path)
        save(address, tmp_path, login_file=tmp_path / "file")
        save(address, tmp_path, login_file=tmp_path / "open")
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", "from:environment")
        save(address, tmp_path)
    nothing, of_home, of_file, of_open_file, of_environment = received
    assert nothing is None
    assert of_home == home_login(home).header
    assert of_file == Login("from:file").header
    assert of_open_file is None
    assert of_environment == Login("from:environment").header


def test_the_callback_takes_the_login_to_no_other_server(home: Home, tmp_path: Path) -> None:
    home_login(home)
    with listener() as (other, received):
        with listener(moved_to=f"{other}/api/events") as (address, _):
            save(address, tmp_path)
        save(other.replace("127.0.0.1", "localhost"), tmp_path)
    assert received == [None, None]


def test_hosts_are_listed_in_stack_yaml_without_databases(home: Home) -> None:
    home.path.mkdir()
    home.stack_file.write_text("allowed_hosts: [merge.example.org, 'other:8080']\n")
    assert read_stack_config(home).allowed_hosts == ("merge.example.org", "other:8080")
    for wrong in ("'*'", "http://merge.example.org", "a/b", "'*.example.org'", "a@b"):
        home.stack_file.write_text(f"allowed_hosts: [{wrong}]\n")
        with pytest.raises(MergeflowError, match="NAME or NAME:PORT"):
            read_stack_config(home)
