"""Fixtures of the pipeline's tests: MLflow databases, empty or with one promoted merge in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from merge_core.homes.home import Home
from tasks.registry.register import register_merge
from tests.support.audited import Audited, audited_home
from tests.support.merge_store import clear_away
from tests.support.registrations import (
    copied_registry,
    empty_registry,
    unsynced_sqlite,
    variant,
    zoo_merge,
)
from tests.support.registry_contents import Registered, everything


@pytest.fixture(scope="session")
def quick_database() -> Iterator[None]:
    with unsynced_sqlite():
        yield


@pytest.fixture
def registry(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, quick_database: None) -> str:
    """The address of an empty MLflow database."""
    return empty_registry(tmp_path / "ml flow", tmp_path_factory.getbasetemp() / "template.db")


@pytest.fixture(scope="session")
def audited(tmp_path_factory: pytest.TempPathFactory, quick_database: None) -> Iterator[Audited]:
    """A home with a base, a merge that serves and one that fell back; for tests that only look."""
    place = tmp_path_factory.mktemp("audited")
    yield audited_home(place, tmp_path_factory.getbasetemp() / "template.db")
    clear_away(Home(place))


@pytest.fixture(scope="session")
def merged(tiny_zoo: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that stands for the merged checkpoint."""
    return variant(tiny_zoo.prose_expert, tmp_path_factory.mktemp("merged") / "object", "merged")


@pytest.fixture(scope="session")
def promoted(
    tiny_zoo: Any, merged: Path, tmp_path_factory: pytest.TempPathFactory, quick_database: None
) -> Registered:
    """A merge that was registered and promoted, for tests that only look."""
    template = tmp_path_factory.getbasetemp() / "template.db"
    registry = empty_registry(tmp_path_factory.mktemp("promoted") / "ml flow", template)
    arguments = zoo_merge(tiny_zoo, merged, registry, promote=True)
    result = register_merge(**arguments)
    return Registered(registry, arguments, result, everything(registry))


@pytest.fixture
def after_promotion(promoted: Registered, tmp_path: Path) -> str:
    """The same database in a copy, for tests that go on from there."""
    return copied_registry(promoted.registry, tmp_path)
