"""A child process that cannot outlive its work: killed with its parent, at a deadline, with all of
its own children.

The parent gives one JSON job on the child's standard input and reads JSON messages, one a line,
from a pipe. Standard output and error of the child go to a log file, so nothing a library prints
can be mistaken for a message or reach the user's terminal.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_core.files.private import open_private
from tasks.processes.own_python import import_path, module_command

_PR_SET_PDEATHSIG = 1
_KEEPER_SECONDS = 20.0
_running: set[subprocess.Popen[bytes]] = set()


@dataclass(frozen=True)
class ChildEnd:
    """How a child ended."""

    code: int | None
    """Exit status, negative for a signal; None when the deadline passed and it was killed."""
    seconds: float

    @property
    def timed_out(self) -> bool:
        return self.code is None


def run_child(
    module: str,
    job: Mapping[str, Any],
    *,
    log: Path,
    timeout: float,
    environment: Mapping[str, str],
    on_message: Callable[[dict[str, Any]], None],
    umask: int = -1,
) -> ChildEnd:
    """Run `python -P -m module` on a job until it ends or `timeout` seconds have passed.

    `environment` replaces this process's. The child and everything that it started are gone when
    this returns or raises, whatever sessions they made for themselves (`tasks.processes.keeper`;
    that holds on Linux, elsewhere for the child's own process group). They end too when this
    process dies, by SIGKILL included (on Linux at once; elsewhere as soon as the child runs any
    python).
    """
    started = time.monotonic()
    receiver, sender = os.pipe()
    try:
        log.unlink(missing_ok=True)
        with os.fdopen(open_private(log), "wb") as output:
            child = subprocess.Popen(
                module_command("tasks.processes.keeper", str(sender), str(os.getpid()), module),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment, "PYTHONPATH": import_path(environment)},
                pass_fds=[sender],
                start_new_session=True,
                umask=umask,
            )
    except BaseException:
        os.close(receiver)
        raise
    finally:
        os.close(sender)
    _running.add(child)
    try:
        _hand_over(child, job)
        exited = _listen(child, receiver, started + timeout, on_message)
    finally:
        code = _end_all(child)
        _running.discard(child)
        os.close(receiver)
    return ChildEnd(code=code if exited else None, seconds=time.monotonic() - started)


def kill_children() -> None:
    """Kill every child of this process, so that the threads that wait for them go on at once."""
    for child in list(_running):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(child.pid, signal.SIGTERM)


def take_job() -> tuple[dict[str, Any], Callable[[dict[str, Any]], None]]:
    """In the child, first of all: tie its life to the parent's; return the job and `send`."""
    sender, parent = int(sys.argv[1]), int(sys.argv[2])
    _die_with(parent)
    job = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_watch_lifeline, daemon=True).start()
    lock = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        line = json.dumps(message, allow_nan=False).encode() + b"\n"
        with lock:
            while line:
                line = line[os.write(sender, line) :]

    return job, send


def _die_with(parent: int) -> None:
    """Linux kills this process when the thread that started it ends; that thread waits for it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _watch_lifeline() -> None:
    """Standard input ends when the parent is gone: take the whole group along, on any system."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _hand_over(child: subprocess.Popen[bytes], job: Mapping[str, Any]) -> None:
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(json.dumps(job).encode() + b"\n")
        child.stdin.flush()


def _listen(
    child: subprocess.Popen[bytes],
    receiver: int,
    deadline: float,
    on_message: Callable[[dict[str, Any]], None],
) -> bool:
    """Pass messages on until the child exits (True) or the deadline passes (False)."""
    rest = b""
    silent = False
    while (left := deadline - time.monotonic()) > 0:
        if silent:
            time.sleep(min(left, 0.02))
        elif select.select([receiver], [], [], min(left, 0.5))[0]:
            chunk = os.read(receiver, 1 << 20)
            silent = not chunk
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                on_message(json.loads(line))
            continue
        if _has_exited(child):
            return True
    return False


def _has_exited(child: subprocess.Popen[bytes]) -> bool:
    """Whether it ended. It stays unreaped, so its process group's number is not given away."""
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end_all(child: subprocess.Popen[bytes]) -> int:
    """Let the keeper end the processes that are left; end the keeper where it cannot."""
    if not _has_exited(child):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(child.pid, signal.SIGTERM)
    try:
        code = child.wait(_KEEPER_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        code = child.wait()
    if child.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
    return code
