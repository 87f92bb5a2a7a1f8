"""Every command that opens a file that a person names: a FIFO, a directory, a device, a socket and
a file of 10 GB are told at once, in one message."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli import program
from tests.support.small_suite import write_suite

SLOW = pytest.mark.slow  # the same way through another command
SECONDS = 10
"""Far more than any command takes here; one that hangs is ended then."""


def a_fifo(at: Path) -> None:
    os.mkfifo(at)


def a_device(at: Path) -> None:
    at.symlink_to("/dev/zero")


def a_socket(at: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as made:
        here = os.open(at.parent, os.O_RDONLY)  # a socket's name has at most 107 bytes
        try:
            made.bind(f"/proc/self/fd/{here}/{at.name}")
        finally:
            os.close(here)


def a_large_file(at: Path) -> None:
    with at.open("wb") as file:
        file.truncate(10 << 30)


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "FIFO": (a_fifo, "it is a FIFO, not a file"),
    "directory": (lambda at: at.mkdir(), "it is a directory, not a file"),
    "device": (a_device, "it is a device, not a file"),
    "socket": (a_socket, "it is a socket, not a file"),
    "10 GB": (a_large_file, "larger than"),
}
"""Each with what is said of it."""

COMMANDS: dict[str, list[str]] = {
    "run": ["run", "NAMED"],
    "search": ["search", "NAMED"],
    "average": ["average", "NAMED"],
    "merge": ["merge", "NAMED", "out"],
    "plan": ["plan", "NAMED"],
    "verify": ["verify", "NAMED"],
    "explain": ["explain", "NAMED"],
    "profile": ["profile", "NAMED"],
    "diagnose": ["diagnose", "NAMED"],
    "adapter merge": ["adapter", "merge", "NAMED", "out"],
    "decide": ["decide", "NAMED", "NAMED"],
    "keys trust": ["keys", "trust", "NAMED"],
    "audit --key": ["audit", "models:/zoo/1", "--key", "NAMED"],
}
OTHER_WORDS = {
    ("keys trust", "10 GB"): "this is not the file of a public key",
    ("audit --key", "10 GB"): "this is not the file of a public key",
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home and directory, a clock, and an eye on the memory."""
    monkeypatch.setenv("MERGEFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)

    def hangs(*_: Any) -> None:
        raise AssertionError("the command hangs")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    former = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    yield tmp_path
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10, "KiB"


def said_of(command: list[str], at: Path, captured: pytest.CaptureFixture[str]) -> str:
    """The one message of a command that fails."""
    assert program.run([str(at) if word == "NAMED" else word for word in command]) == 2
    said = captured.readouterr().err
    assert said.count("error:") == 1
    assert len(said.splitlines()) <= 3
    return said


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        pytest.param(command, kind, marks=[] if kind == "FIFO" or command == "plan" else SLOW)
        for command in COMMANDS
        for kind in KINDS
    ],
)
def test_a_file_that_is_none_is_told_at_once(
    command: str, kind: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, words = KINDS[kind]
    make(here / "named")
    said = said_of(COMMANDS[command], here / "named", capsys)
    assert OTHER_WORDS.get((command, kind), words) in said
    assert str(here / "named") in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_task_of_a_suite(kind: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_suite(here / "suite")
    KINDS[kind][0](here / "suite" / "tasks" / "more.yaml")
    said = said_of(["evaluate", "./model", "NAMED"], here / "suite", capsys)
    assert KINDS[kind][1] in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_rule_file(kind: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    KINDS[kind][0](here / "named")
    said = said_of(["decide", "a.json", "b.json", "--rule", "NAMED"], here / "named", capsys)
    assert KINDS[kind][1] in said


def test_what_a_shell_opens_for_a_command_is_read(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`mergeflow plan <(COMMAND)`."""
    reads, writes = os.pipe()
    os.write(writes, yaml.safe_dump({"merge_method": "linear", "modells": []}).encode())
    os.close(writes)
    assert "did you mean 'models'" in said_of(["plan", "NAMED"], Path(f"/dev/fd/{reads}"), capsys)
    os.close(reads)
