"""A child process that cannot outlive its work: killed with its parent, at a deadline, with all of
its own children.

The parent gives one JSON job on the child's standard input and reads JSON messages, one a line,
from a pipe. Standard output and error of the child go to a log file, so nothing a library prints
can be mistaken for a message or reach the user's terminal.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
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
from tasks.processes.descendants import die_with_parent
from tasks.processes.own_python import import_path, module_command

Send = Callable[[dict[str, Any]], None]

_KEEPER_SECONDS = 20.0
_LOOK = os.WEXITED | os.WNOHANG | os.WNOWAIT
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


class Child:
    """A kept child process, from its start to the end of everything that it has started.

    It ends too when this process dies, or the thread that started it, by SIGKILL included (on Linux
    at once; elsewhere as soon as the child runs any python).
    """

    def __init__(
        self, module: str, *, log: Path, environment: Mapping[str, str], umask: int = -1
    ) -> None:
        """Start `python -P -m module`. `environment` replaces this process's."""
        receiver, sender = os.pipe()
        try:
            log.unlink(missing_ok=True)
            with os.fdopen(open_private(log), "wb") as output:
                self._process = subprocess.Popen(
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
        self._receiver = receiver
        self._rest = b""
        _running.add(self._process)

    def give(self, job: Mapping[str, Any]) -> None:
        """Hand over a job; a child that has ended does not take it, which `listen` finds."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()

    def listen(
        self,
        until: float,
        on_message: Callable[[dict[str, Any]], None],
        is_enough: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Pass messages on until the child has ended or they are enough.

        Args:
            until: as `time.monotonic()` tells it.

        Returns:
            False when that time came first.
        """
        silent = False
        while (left := until - time.monotonic()) > 0:
            if silent:
                time.sleep(min(left, 0.02))
            elif select.select([self._receiver], [], [], min(left, 0.5))[0]:
                chunk = os.read(self._receiver, 1 << 20)
                silent = not chunk
                *lines, self._rest = (self._rest + chunk).split(b"\n")
                for line in lines:
                    message = _read(line)
                    if message is not None:
                        on_message(message)
                if is_enough():
                    return True
                continue
            if self.has_ended():
                return True
        return False

    def has_ended(self) -> bool:
        """It stays unreaped, so its process group's number is not given away."""
        if self._process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self._process.pid, _LOOK) is not None

    def end(self) -> int:
        """Let the keeper end what is left, and failing that, end the keeper; the exit status."""
        process = self._process
        if process.returncode is not None:
            return process.returncode
        try:
            if not self.has_ended():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, signal.SIGTERM)
            try:
                return process.wait(_KEEPER_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                return process.wait()
        finally:
            if process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
            _running.discard(process)
            os.close(self._receiver)


def _read(line: bytes) -> dict[str, Any] | None:
    """A message; None for half of one, as a process that was killed may have said it."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def run_child(
    module: str,
    job: Mapping[str, Any],
    *,
    log: Path,
    timeout: float,
    environment: Mapping[str, str],
    on_message: Callable[[dict[str, Any]], None],
) -> ChildEnd:
    """Run `python -P -m module` on a job until it ends or `timeout` seconds have passed.

    The child and everything that it started are gone when this returns or raises, whatever sessions
    they made for themselves (`tasks.processes.keeper`; that holds on Linux, elsewhere for the
    child's own process group).
    """
    started = time.monotonic()
    child = Child(module, log=log, environment=environment)
    try:
        child.give(job)
        exited = child.listen(started + timeout, on_message)
    finally:
        code = child.end()
    return ChildEnd(code=code if exited else None, seconds=time.monotonic() - started)


def kill_children() -> None:
    """Kill every child of this process, so that the threads that wait for them go on at once."""
    for child in list(_running):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(child.pid, signal.SIGTERM)


def take_job() -> tuple[dict[str, Any], Send]:
    """In the child, first of all: tie its life to the parent's; return the job and `send`."""
    job, send = _begin()
    threading.Thread(target=_watch_lifeline, daemon=True).start()
    return job, send


def take_jobs() -> tuple[dict[str, Any], Callable[..., dict[str, Any]], Send]:
    """As `take_job`, in a child that is given more of them: between the two, what waits for the
    next one, with a `timeout` until `queue.Empty`."""
    job, send = _begin()
    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_watch_lifeline, args=[jobs.put], daemon=True).start()
    return job, jobs.get, send


def take_over(parent: int) -> None:
    """In a process that was forked off a child: end with it."""
    die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _begin() -> tuple[dict[str, Any], Send]:
    sender, parent = int(sys.argv[1]), int(sys.argv[2])
    # Linux kills this process when the thread that started it ends; that thread waits for it.
    take_over(parent)
    job = json.loads(_read_line())
    lock = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        # It begins a line of its own: a fork that was killed may have left half of one.
        line = b"\n" + json.dumps(message, allow_nan=False).encode() + b"\n"
        with lock:
            while line:
                line = line[os.write(sender, line) :]

    return job, send


def _read_line() -> bytes:
    """Of standard input, and nothing of what follows it; what there is when it ends before."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line


def _watch_lifeline(take: Callable[[dict[str, Any]], None] | None = None) -> None:
    """Standard input ends when the parent is gone: take the whole group along, on any system."""
    rest = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(0, 1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if take:
                    take(json.loads(line))
    os.killpg(os.getpgid(0), signal.SIGKILL)
