"""The checkpoints that the conformance tests share, once for each stored dtype."""

from __future__ import annotations

import pytest

from merge_core.records import SourceCheckpoint
from tests.conformance.nasty import DTYPES, NAMES, nasty_tensors
from tests.support.checkpoints import write_checkpoint


@pytest.fixture(scope="session", params=sorted(DTYPES))
def zoo(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, SourceCheckpoint]:
    root = tmp_path_factory.mktemp(request.param)
    dtype = DTYPES[request.param]
    return {name: write_checkpoint(root / name, nasty_tensors(name, dtype)) for name in NAMES}
