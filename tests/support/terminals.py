"""Commands as a person calls them: at a terminal, in an environment of their own."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Terminal:
    """A terminal with one command on it."""

    process: subprocess.Popen[bytes]
    screen: int
    seen: bytes = b""
    """All that was written to it."""

    @property
    def text(self) -> str:
        return self.seen.decode(errors="replace")

    def watch(self, seconds: float, until: str | None = None) -> None:
        """Read until the command ends, or has written `until`, or the time is over."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if select.select([self.screen], [], [], 0.1)[0]:
                try:
                    chunk = os.read(self.screen, 65536)
                except OSError:  # everybody on the other side is gone
                    return
                self.seen += chunk
                if until and until in self.text:
                    return
            elif self.process.poll() is not None:
                return
        raise AssertionError(f"not done after {seconds} s: {self.text[-3000:]}")


@contextlib.contextmanager
def terminal(
    command: Sequence[str], directory: Path, environment: Mapping[str, str]
) -> Iterator[Terminal]:
    """Start a command whose input and output are a terminal; it is killed at the end."""
    screen, side = pty.openpty()
    process = subprocess.Popen(
        command,
        stdin=side,
        stdout=side,
        stderr=side,
        cwd=directory,
        env=environment,
        start_new_session=True,
    )
    os.close(side)
    try:
        yield Terminal(process, screen)
    finally:
        process.kill()
        process.wait()
        os.close(screen)


def on_a_terminal(
    command: Sequence[str], directory: Path, environment: Mapping[str, str], seconds: float = 240
) -> tuple[int, str]:
    """Run a command to its end; its exit status, and what it wrote."""
    with terminal(command, directory, environment) as shown:
        shown.watch(seconds)
        return shown.process.wait(30), shown.text
