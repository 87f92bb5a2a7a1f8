"""The code of an earlier commit, as its users ran it: it makes homes that today's code inherits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]


def former_code(commit: str, directory: Path) -> Path:
    """A commit's files; the test is skipped where the history of this clone is cut off."""
    git = ["git", "-C", str(_ROOT)]
    archive = subprocess.run([*git, "archive", commit], capture_output=True)
    if archive.returncode:
        pytest.skip(f"this clone has no commit {commit}: {archive.stderr.decode()[:200]}")
    directory.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", str(directory)], input=archive.stdout, check=True)
    return directory


def mergeflow(
    *arguments: str, home: Path, cwd: Path, code: Path = _ROOT
) -> subprocess.CompletedProcess[str]:
    """One command in a process of its own, with the given code and home."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    return subprocess.run(
        [sys.executable, "-c", COMMAND, str(code), *arguments],
        cwd=cwd,
        env={**kept, "MERGEFLOW_HOME": str(home), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=280,
    )


COMMAND = """
import sys
sys.path.insert(0, sys.argv.pop(1))
sys.argv[0] = "mergeflow"
from flows.cli import main
main()
"""
