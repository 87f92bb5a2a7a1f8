"""What several tests of faults start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.crash_cases import write_models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small models of `crash_cases`, with a recipe for each kind of merge."""
    return write_models(tmp_path_factory.mktemp("models"))
