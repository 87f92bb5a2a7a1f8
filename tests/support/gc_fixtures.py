"""A store to tidy with `mergeflow gc`, its registries, and what of the user's lies beside.

A test module takes them by `pytest_plugins = ["tests.support.gc_fixtures"]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from merge_core.homes.home import Home
from tests.support.merge_store import DAY, Store, clear_away, made_old, merge_store
from tests.support.registrations import empty_registry


@pytest.fixture
def registry_at(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Makes an empty MLflow database in a directory; its address."""
    template = tmp_path_factory.getbasetemp() / "template.db"
    return lambda directory: empty_registry(directory, template)


@pytest.fixture
def store(
    tmp_path: Path,
    home: Home,
    registry_at: Callable[[Path], str],
    quick_database: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Store]:
    """A store whose merges are registered in the home's own database."""
    registry = registry_at(home.mlflow)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield merge_store(tmp_path, home, registry)
    clear_away(home)


@pytest.fixture
def their_registry(tmp_path: Path, registry_at: Callable[[Path], str]) -> str:
    """The address of somebody else's registry."""
    return registry_at(tmp_path / "else where")


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A directory of the user's, outside the home, with everything that removal could harm."""
    directory = tmp_path / "precious"
    (directory / "deep").mkdir(parents=True)
    (directory / "deep" / "thesis.txt").write_text("years of work")
    (directory / "locked").mkdir()
    (directory / "lock").touch()
    (directory / "locked").chmod(0o500)
    directory.chmod(0o550)
    made_old(directory, 9 * DAY)
    return directory
