"""A server that a suite's command starts for one checkpoint, on this machine alone.

What answers has to be what was started: a port that another program holds would score another
model under this checkpoint's name.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from tasks.processes.model import Problem, last_lines

_PLACE = "settings.server"
_LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""A proxy is never asked for what is on this machine."""


class Address(NamedTuple):
    """Where a checkpoint is served."""

    url: str
    """Of OpenAI's completions."""
    model: str
    """What the server calls the checkpoint."""


@contextlib.contextmanager
def serving(command: Sequence[str], checkpoint: str) -> Iterator[Address]:
    """Start the server and wait until it answers; at the end of the block end all that it started.

    The suite's `timeout_minutes` limits how long it may take to answer.

    Args:
        command: program and arguments; `{checkpoint}` and `{port}` in them are replaced.

    Raises:
        Problem: it cannot be started, ends before it answers, or listens where others reach it.
    """
    port = _free_port()
    values = {"{checkpoint}": checkpoint, "{port}": str(port)}
    arguments = [_filled(argument, values) for argument in command]
    with tempfile.TemporaryDirectory(prefix="mergeflow-server-") as directory:
        log = Path(directory) / "log"
        server = _started(arguments, log)
        try:
            name = _answers(server, port, log)
            yield Address(f"http://127.0.0.1:{port}/v1/completions", name)
        finally:
            _end(server)
            with log.open("rb") as said:
                shutil.copyfileobj(said, sys.stderr.buffer)


def _started(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    try:
        with log.open("wb") as said:
            return subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
            )
    except OSError as error:
        raise Problem(
            f"{arguments[0]} cannot be started: {error.strerror}",
            place=_PLACE,
            mend="name a program that is installed here, with its path where PATH does not have it",
        ) from None


def _filled(argument: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        argument = argument.replace(name, value)
    return argument


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(server: subprocess.Popen[bytes], port: int, log: Path) -> str:
    """Wait until the server answers. Returns what it calls its model."""
    while True:
        code = server.poll()
        if code is not None:
            last = " / ".join(last_lines(log, 2)) or "it said nothing"
            raise Problem(
                f"the server ended with exit code {code} before it answered: {last}",
                place=_PLACE,
                mend="try the command by hand, with a checkpoint's directory and a port in it",
            )
        listens_at = _listens_at(server, port)
        if listens_at and not listens_at.issubset(_LOOPBACK):
            raise Problem(
                f"the server listens on {', '.join(sorted(listens_at))}, where other machines reach"
                " it",
                place=_PLACE,
                mend="tell it to listen on 127.0.0.1 (--host 127.0.0.1 for most)",
            )
        if listens_at:
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
                return _name_of_model(port)
        time.sleep(0.1)


def _listens_at(server: subprocess.Popen[bytes], port: int) -> set[str]:
    """Addresses where the server, or a process that it started, holds this port."""
    found: set[str] = set()
    with contextlib.suppress(psutil.Error):
        own = psutil.Process(server.pid)
        for process in (own, *own.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                found.update(
                    each.laddr.ip
                    for each in process.net_connections("tcp")
                    if each.status == psutil.CONN_LISTEN and each.laddr.port == port
                )
    return found


def _name_of_model(port: int) -> str:
    with _DIRECT.open(f"http://127.0.0.1:{port}/v1/models", timeout=10) as answer:
        return str(json.load(answer)["data"][0]["id"])


def _end(server: subprocess.Popen[bytes]) -> None:
    """End it and its children, at once: nothing of it is to be kept."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(server.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    server.kill()
    server.wait()
