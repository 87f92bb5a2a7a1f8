"""One wheel, and one installation of it, for all tests here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.installation import Installation, build_wheel, install


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a checkout in which the containers' passwords lie."""
    return build_wheel(tmp_path_factory.mktemp("built") / "here", untracked="deployments/.env")


@pytest.fixture(scope="session")
def installation(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Not to be changed."""
    return install(wheel, tmp_path_factory.mktemp("installed") / "venv")


@pytest.fixture
def changeable(wheel: Path, tmp_path: Path) -> Installation:
    """An installation of the test's own."""
    return install(wheel, tmp_path / "venv")
