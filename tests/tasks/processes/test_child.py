"""A killable child: what it sends arrives, what it prints is logged, and it never stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from tasks.processes.child import run_child
from tests.support.processes import is_alive, wait_until

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import os, subprocess, sys, time
from tasks.processes.child import take_job

job, send = take_job()
print("noise on standard output")
print("noise on standard error", file=sys.stderr)
send({"pid": os.getpid(), "group": os.getpgid(0)})
if job["do"] == "echo":
    send({"echo": job["text"] * 100_000})
if job["do"] == "hang":
    send({"child": subprocess.Popen(["sleep", "600"]).pid})
    time.sleep(600)
if job["do"] == "exit and leave a child":
    send({"child": subprocess.Popen(["sleep", "600"]).pid})
if job["do"].startswith("daemon"):
    # Twice forked, with a session of its own and no way back: what a careless task does.
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.environ.clear()
            os.write(writing, str(os.getpid()).encode())
            os.closerange(0, 3)
            os.execv("/bin/sleep", ["sleep", "600"])
        os._exit(0)
    send({"child": int(os.read(reading, 20))})
    time.sleep(600 if job["do"] == "daemon and hang" else 0)
    if job["do"] == "daemon and crash":
        os.kill(os.getpid(), 11)
sys.exit(job.get("code", 0))
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "mergeflow_test_child.py").write_text(textwrap.dedent(PROGRAM))
    messages: dict = {}

    def start(job, timeout=60.0, on_message=messages.update):
        end = run_child(
            "mergeflow_test_child",
            job,
            log=tmp_path / "log",
            timeout=timeout,
            environment={**os.environ, "PYTHONPATH": str(tmp_path)},
            on_message=on_message,
        )
        return end, messages, (tmp_path / "log").read_text()

    return start


def test_messages_of_any_length_arrive_and_noise_goes_to_the_log(run):
    end, messages, log = run({"do": "echo", "text": "ä|\n"})
    assert (end.code, end.timed_out) == (0, False)
    assert messages["echo"] == "ä|\n" * 100_000
    assert messages["group"] == messages["pid"] != os.getpgid(0)
    assert "standard output" in log
    assert "standard error" in log


@pytest.mark.parametrize("code", [0, 3])
def test_the_exit_status_is_told(run, code):
    assert run({"do": "nothing", "code": code})[0].code == code


def test_a_child_that_hangs_is_killed_at_its_deadline_with_its_own_children(run):
    end, messages, _ = run({"do": "hang"}, timeout=3)
    assert end.timed_out
    assert 3 <= end.seconds < 10
    assert wait_until(lambda: not is_alive(messages["child"]), 10)
    assert not is_alive(messages["pid"])


def test_what_a_child_leaves_behind_is_killed_when_it_exits(run):
    end, messages, _ = run({"do": "exit and leave a child"})
    assert end.code == 0
    assert wait_until(lambda: not is_alive(messages["child"]), 10)


@pytest.mark.skipif(sys.platform != "linux", reason="sub-reapers are Linux's")
@pytest.mark.parametrize(("do", "code"), [("daemon", 0), ("daemon and crash", -signal.SIGSEGV)])
def test_a_daemon_that_left_the_childs_session_does_not_outlive_it(run, do, code):
    end, messages, _ = run({"do": do})
    assert end.code == code
    assert not is_alive(messages["child"])


@pytest.mark.skipif(sys.platform != "linux", reason="sub-reapers are Linux's")
def test_a_daemon_is_ended_with_a_child_that_is_too_slow(run):
    end, messages, _ = run({"do": "daemon and hang"}, timeout=2)
    assert end.timed_out
    assert not is_alive(messages["child"])


def test_the_keeper_is_gone_with_the_child(run):
    before = {process.pid for process in psutil.Process().children()}
    run({"do": "nothing"})
    assert {process.pid for process in psutil.Process().children()} <= before


def test_a_listener_that_raises_ends_the_child(run):
    seen = {}

    def refuse(message):
        seen.update(message)
        if "child" in message:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run({"do": "hang"}, on_message=refuse)
    assert wait_until(lambda: not is_alive(seen["pid"]) and not is_alive(seen["child"]), 10)


def test_a_child_dies_with_a_parent_that_is_killed(run, tmp_path):
    program = f"""
    import os
    from pathlib import Path
    from tasks.processes.child import run_child
    environment = dict(os.environ, PYTHONPATH={str(tmp_path)!r})
    pids = []
    def note(message):
        pids.extend(str(message[key]) for key in ("pid", "child") if key in message)
        if "child" in message:
            Path({str(tmp_path)!r}, "part").write_text(" ".join(pids))
            Path({str(tmp_path)!r}, "part").rename(Path({str(tmp_path)!r}, "pid"))
    job = {{"do": "daemon and hang"}}
    run_child("mergeflow_test_child", job, log=Path({str(tmp_path)!r}, "log"),
              timeout=60, environment=environment, on_message=note)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT)
    try:
        assert wait_until((tmp_path / "pid").exists, 30)
        child, daemon = map(int, (tmp_path / "pid").read_text().split())
        assert is_alive(child)
        assert is_alive(daemon)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert wait_until(lambda: not is_alive(child), 10)
        if sys.platform == "linux":
            assert wait_until(lambda: not is_alive(daemon), 10)
    finally:
        parent.kill()
        parent.wait()


def test_a_child_whose_parent_is_already_gone_does_nothing(tmp_path):
    receiver, sender = os.pipe()
    arguments = [sys.executable, "-m", "tasks.evaluation.process", str(sender), "1"]
    started = time.monotonic()
    orphan = subprocess.run(
        arguments, cwd=ROOT, pass_fds=[sender], stdin=subprocess.DEVNULL, timeout=60, check=False
    )
    os.close(sender)
    assert orphan.returncode == 1
    assert os.read(receiver, 1) == b""
    os.close(receiver)
    assert time.monotonic() - started < 30
