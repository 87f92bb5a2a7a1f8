"""A user from outside: without any home yet, with a network that refuses, beside hostile files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.model_zoo import Zoo
from tests.support.other_user import reachable_directory
from tests.support.outside import Outside, lay_out, put_hostile_files

_LIBRARY = Path(__file__).parents[1] / "support" / "refused_network.c"


@pytest.fixture(scope="session")
def refused_network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The library that refuses and records, compiled."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = tmp_path_factory.mktemp("library") / "refused_network.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, _LIBRARY, "-ldl"], check=True)
    return str(library)


@pytest.fixture
def outside(tmp_path: Path, refused_network: str, tiny_zoo: Zoo) -> Outside:
    """A user in a directory of their own."""
    directory, home = tmp_path / "work", tmp_path / "user"
    directory.mkdir()
    home.mkdir()
    lay_out(directory, tiny_zoo)
    return Outside(directory, refused_network, tmp_path / "refused", home)


@pytest.fixture
def marker(outside: Outside) -> Path:
    """What every hostile file in the user's directory writes to when it is obeyed."""
    marker = outside.directory.parent / "marker"
    put_hostile_files(outside.directory, marker)
    return marker


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
