"""The processes of a local stack: each carries a mark in its environment, so none can be lost.

Children inherit the mark, whatever session or process group they make for themselves. Whoever has
to end a stack (`mergeflow up` itself, its guard, the next `up`) finds everything by it, flow runs
and their evaluations included.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from uuid import UUID

import psutil

MARK = "MERGEFLOW_STACK"
"""Environment variable `INSTANCE:ROLE` of every process of a stack."""

ROLES = ("worker", "mlflow", "prefect")
"""In the order to stop them: a worker's last words need the servers."""

_PATIENCE = {"worker": 15.0, "mlflow": 8.0, "prefect": 10.0}


def mark(instance: str, role: str) -> dict[str, str]:
    """Environment that makes a process, and all its descendants, part of a stack."""
    return {MARK: f"{instance}:{role}"}


def members(instance: str, role: str | None = None) -> list[psutil.Process]:
    """Every living process of a stack, or of one role in it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            carried, _, its_role = process.environ().get(MARK, "").partition(":")
            if carried == instance and role in (None, its_role):
                found.append(process)
    return found


def flow_runs_at_work(instance: str) -> set[UUID]:
    """The Prefect runs that have a living process in a stack; Prefect names them to it."""
    found = set()
    for process in members(instance, "worker"):
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            found.add(UUID(process.environ().get("PREFECT__FLOW_RUN_ID", "")))
    return found


def end_members(instance: str, *, hurry: Callable[[], bool] = lambda: False) -> int:
    """End a stack, role by role: asked first, then killed. Returns how many there were.

    Args:
        hurry: asked now and then; once it is true nobody is waited for any more.
    """
    ended = 0
    for role in ROLES:
        processes = members(instance, role)
        ended += len(processes)
        _send(_leading(processes), signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE[role]
        while processes and time.monotonic() < deadline and not hurry():
            time.sleep(0.1)
            processes = members(instance, role)
        _kill(instance, role)
    return ended


def end_all(instance: str) -> None:
    """Kill whatever is left of a stack."""
    _kill(instance, None)


def listener_of(port: int) -> str | None:
    """Who listens on a local port, as far as this user may know: `python (pid 123)`."""
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.Error, OSError):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return f"{process.info['name']} (pid {process.pid})"
    return None


def _leading(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """The service and its children, the flow runs: only these are told to end, and end their own
    children. If an evaluation were told first, its run would report a failed step."""
    numbers = {process.pid for process in processes}
    parents = {process.pid: _parent(process) for process in processes}
    return [p for p in processes if parents.get(parents[p.pid] or 0) not in numbers]


def _parent(process: psutil.Process) -> int | None:
    with contextlib.suppress(psutil.Error):
        return int(process.ppid())
    return None


def _send(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _kill(instance: str, role: str | None) -> None:
    """Kill until none is left: a process may start another one while it is looked for."""
    deadline = time.monotonic() + 10
    while (processes := members(instance, role)) and time.monotonic() < deadline:
        _send(processes, signal.SIGKILL)
        time.sleep(0.05)
