"""Starting, watching and killing commands of mergeflow that run as forks of `fork_server`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.support.processes import wait_until
from tests.support.traces import lines_of

_ROOT = Path(__file__).resolve().parents[2]
_QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


_STREAMS = ("stdout", "stderr")


@dataclass(frozen=True)
class Signalled:
    """A signal that a command takes at a line of its trace, or some time after it."""

    signal: int
    line: str
    """A pattern that the line holds."""
    after: float = 0.0
    """Seconds."""


@dataclass(frozen=True)
class ForkedCommand:
    """A command that was started."""

    server: ForkServer
    pid: int
    directory: Path
    number: int

    def kill(self) -> None:
        """Send SIGKILL; its number is not given away before `wait`."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit status when it has ended, negative for a signal."""
        return self.server.ask({"wait": self.pid})

    def wait_until_stopped(self) -> None:
        """Return when it took SIGSTOP."""
        process, halted = psutil.Process(self.pid), (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
        wait_until(lambda: process.status() in halted, 60)
        assert process.status() == psutil.STATUS_STOPPED, self.said

    @property
    def has_ended(self) -> bool:
        """Whether there is an exit status to wait for."""
        return psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE

    def go_on(self) -> None:
        """Let it go on after SIGSTOP."""
        os.kill(self.pid, signal.SIGCONT)

    @property
    def trace(self) -> list[list[str]]:
        """What it did so far."""
        return lines_of(_beside(self.directory, self.number, "trace"))

    @property
    def said(self) -> str:
        """Everything on its standard output and error, with lines and blanks as single blanks."""
        texts = [_beside(self.directory, self.number, stream).read_text() for stream in _STREAMS]
        return " ".join(" ".join(texts).split())


class ForkServer:
    """A server of forks, to be used by one thread at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._started = 0

    @property
    def root(self) -> Path:
        """The file system as the server sees it, with mounts of its own."""
        return Path(f"/proc/{self._process.pid}/root")

    def warm_up(self, commands: Sequence[Sequence[str]], directory: Path) -> None:
        """Run commands in the server itself: what they load and compile, later ones find done.

        Args:
            directory: their home.
        """
        asked = {"commands": [list(command) for command in commands], "directory": str(directory)}
        assert self.ask({"warm_up": asked}) == 0

    def run_inside(self, command: Sequence[str]) -> None:
        """Run a program where the server is: in its namespaces."""
        enter = ["nsenter", "--target", str(self._process.pid), "--user", "--mount", "--"]
        subprocess.run([*enter, *command], check=True)

    def start(
        self,
        arguments: Sequence[str],
        directory: Path,
        *,
        watched: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
        signalled: Signalled | None = None,
        drop_capabilities: bool = False,
    ) -> ForkedCommand:
        """Start a command line of mergeflow, or `store RECIPE SHARD_BYTES`.

        Args:
            directory: where it runs, with the home below; its output and trace are kept beside.
            watched: file operations below these places are traced, as are those below `directory`.
            signalled: a signal that it sends to itself.
            drop_capabilities: root becomes an ordinary user, for whom permissions count.
        """
        self._started += 1
        number = self._started
        files = {kind: str(_beside(directory, number, kind)) for kind in (*_STREAMS, "trace")}
        pid = self.ask(
            {
                "arguments": list(arguments),
                "directory": str(directory),
                "environment": {"MERGEFLOW_HOME": str(directory / "home")}
                | dict(environment or {}),
                "watched": [str(directory), *map(str, watched)],
                "signalled": asdict(signalled) if signalled else None,
                "drop_capabilities": drop_capabilities,
                **files,
            }
        )
        return ForkedCommand(self, pid, directory, number)

    def ask(self, request: dict[str, Any]) -> int:
        """The server's answer to a request."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextlib.contextmanager
def fork_server(
    *, inside: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[ForkServer]:
    """A server for the block. `inside` is a command that runs it, such as `unshare`."""
    process = subprocess.Popen(
        [*inside, sys.executable, "-m", "tests.support.fork_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
        env={**os.environ, **_QUIET, **(environment or {})},
    )
    try:
        yield ForkServer(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


def _beside(directory: Path, number: int, kind: str) -> Path:
    return directory.parent / f"{directory.name}.{number}.{kind}"
