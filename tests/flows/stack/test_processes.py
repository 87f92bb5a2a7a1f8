"""The processes of a stack are found and ended by their mark, however they detach themselves."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.stack.ports import listen
from flows.stack.processes import (
    end_members,
    listener_of,
    mark,
    members,
)
from flows.stack.stack import Signals, end_leftovers, only_one
from merge_core.errors import MergeflowError
from merge_core.homes.home import Home
from tasks.registry.memory import stack_server
from tasks.servers.same_process import is_same_process, own_start_time
from tasks.servers.stack_record import StackRecord, read_record, running_stack, write_record
from tests.support.processes import is_alive, wait_until

STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleeper = "import time; time.sleep(60)"
subprocess.Popen([sys.executable, "-c", sleeper], start_new_session=True)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def instance() -> Iterator[str]:
    """The mark of this test's processes; whatever is left of them is killed."""
    name = f"test-{os.getpid()}-{os.urandom(4).hex()}"
    yield name
    for process in members(name):
        process.kill()


def started(instance: str, role: str, code: str = STUBBORN) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **mark(instance, role)},
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def record(instance: str, pid: int, start: float) -> StackRecord:
    return StackRecord(instance, pid, start, "http://127.0.0.1:1", "http://127.0.0.1:2", "/")


def test_descendants_in_sessions_of_their_own_are_found_and_killed(instance: str) -> None:
    process = started(instance, "worker")
    assert wait_until(lambda: len(members(instance)) == 2, 5)
    numbers = [each.pid for each in members(instance, "worker")]
    assert members(instance, "prefect") == []
    assert end_members(instance, hurry=lambda: True) == 2
    assert not any(is_alive(number) for number in numbers)
    assert process.wait(5) == -signal.SIGKILL


def test_the_guard_ends_the_stack_when_the_lifeline_closes(instance: str) -> None:
    code = "print('ready', flush=True); import time; time.sleep(60)"
    process = started(instance, "mlflow", code)
    reading, writing = os.pipe()
    guard = subprocess.Popen([sys.executable, "-m", "flows.stack.keeper", instance], stdin=reading)
    os.close(reading)
    assert process.poll() is None
    os.close(writing)
    assert guard.wait(20) == 0
    assert process.wait(5) == -signal.SIGTERM


def test_leftovers_of_a_killed_up_are_ended_by_the_next(instance: str, home: Home) -> None:
    started(instance, "prefect", "print('ready', flush=True); import time; time.sleep(60)")
    write_record(home, record(instance, 2**22 + 1, 0.0))
    assert running_stack(home) is None
    assert end_leftovers(home) == 1
    assert members(instance) == []
    assert read_record(home) is None
    assert end_leftovers(home) == 0


def test_the_stack_of_a_home_is_not_that_of_its_copy(
    instance: str, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = started(
        instance, "prefect", "print('ready', flush=True); import time; time.sleep(60)"
    )
    write_record(home, record(instance, os.getpid(), own_start_time()))
    copy = Home(tmp_path / "copy")
    subprocess.run(["cp", "-a", home.path, copy.path], check=True)
    assert running_stack(home)
    assert stack_server(home) == "http://127.0.0.1:2"
    assert running_stack(copy) is stack_server(copy) is None
    assert end_leftovers(copy) == 0
    assert process.poll() is None, "a copy ended the servers of the original"
    moved = Home(home.path.rename(tmp_path / "moved"))
    assert running_stack(moved), "a home that was moved meanwhile has its stack"
    assert end_leftovers(moved) == 1


def test_a_record_of_the_version_before_is_of_the_home_it_is_in(home: Home) -> None:
    write_record(home, record("x", os.getpid(), own_start_time()))
    file = home.stack / "stack.json"
    values = json.loads(file.read_text())
    del values["home"]
    file.write_text(json.dumps(values))
    assert running_stack(home)


def test_a_process_number_that_was_used_again_is_not_the_stack(home: Home) -> None:
    assert is_same_process(os.getpid(), own_start_time())
    assert not is_same_process(os.getpid(), own_start_time() - 3600)
    write_record(home, record("x", os.getpid(), own_start_time() - 3600))
    assert running_stack(home) is None
    write_record(home, record("x", os.getpid(), own_start_time()))
    assert running_stack(home) == read_record(home)


def test_a_damaged_record_is_no_record(home: Home) -> None:
    home.stack.mkdir(parents=True)
    for text in ("", "{", "[]", '{"pid": 1}'):
        (home.stack / "stack.json").write_text(text)
        assert read_record(home) is None


def test_a_home_holds_one_stack(home: Home) -> None:
    with only_one(home), pytest.raises(MergeflowError, match="another `mergeflow up`"):
        second_stack(home)
    second_stack(home)


def second_stack(home: Home) -> None:
    with only_one(home):
        pass


def test_a_taken_default_port_gives_way_to_the_next_with_a_word_about_its_holder() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        found, taken = listen(None, port, "--port")
        with found:
            assert found.getsockname()[0] == "127.0.0.1"
            assert found.getsockname()[1] > port
        assert taken is not None
        assert taken.startswith(f"port {port} is taken by ")
        assert f"(pid {os.getpid()})" in str(listener_of(port))
        with pytest.raises(MergeflowError, match=f"port {port} is taken by") as caught:
            listen(port, 4200, "--prefect-port")
        assert "--prefect-port" in str(caught.value)
    found, taken = listen(port, 4200, "--prefect-port")
    found.close()
    assert taken is None


def test_a_first_signal_interrupts_and_a_second_one_hurries() -> None:
    with Signals() as signals:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        assert not signals.again
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.again
