"""What the tests with real workers share: models, and their merge as one process does it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from flows.stack.prefect_session import PrefectSession
from merge_core.homes.home import Home
from merge_core.records import SourceCheckpoint
from tests.support.scale_out_cases import run_merge, sums, write_zoo


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SourceCheckpoint]:
    return write_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="session")
def alone(
    zoo: dict[str, SourceCheckpoint], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """sha256 of every file of the merge, computed in this process."""
    out = tmp_path_factory.mktemp("alone") / "out"
    run_merge(zoo, out)
    return sums(out)


@pytest.fixture
def prefect_here(prefect: PrefectSession, home: Home) -> Iterator[PrefectSession]:
    """The session's Prefect server, with results in this test's home."""
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: str(home.cache)}):
        yield prefect
