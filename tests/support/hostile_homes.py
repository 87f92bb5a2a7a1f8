"""Homes that an attacker ships, and what a user does with them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

from flows.cli import program
from tasks.servers.same_process import own_start_time

EVIL = "http://evil.example:4200"


def hostile_home(path: Path) -> Path:
    """What an attacker ships: another server for the runs, a memo that vouches for anything."""
    (path / "stack").mkdir(parents=True)
    (path / "stack.yaml").write_text(
        "prefect_database: postgresql://evil.example/a\nmlflow_database: postgresql://evil.example/b\n"
    )
    record = {
        "instance": "0" * 16,
        "pid": os.getpid(),
        "started": own_start_time(),
        "prefect": EVIL,
        "mlflow": EVIL,
        "directory": "/",
    }
    (path / "stack" / "stack.json").write_text(json.dumps(record))
    return path


def run(*arguments: str) -> int:
    return program.run(list(arguments))


def mend_of(said: str) -> list[str]:
    """The command that a message tells the user to run."""
    found = re.search(r"mergeflow (home trust .*)", said)
    assert found, said
    return shlex.split(found[1])


def git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=directory, check=True, capture_output=True, text=True
    )
    return done.stdout


def snapshot(home: Path) -> dict[str, tuple[float, int, bytes]]:
    """Times, modes and content of everything: what was changed or read shows."""
    return {
        str(path): (
            path.stat().st_mtime,
            path.stat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in [home, *home.rglob("*")]
    }
