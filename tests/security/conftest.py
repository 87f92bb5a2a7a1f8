"""A user without any home yet, here and where other users can get to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.other_user import reachable_directory


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user without any home yet, in the directory of a project."""
    before = os.umask(0o022)
    for name in ("home-directory", "config", "project"):
        (tmp_path / name).mkdir(mode=0o700)
    monkeypatch.delenv("MERGEFLOW_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home-directory"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path / "project")
    yield tmp_path / "project"
    os.umask(before)


@pytest.fixture
def elsewhere(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that all users can get to, and the working directory."""
    with reachable_directory() as directory:
        monkeypatch.chdir(directory)
        yield directory
