"""The base that the checkpoints of these tests were fine-tuned from."""

from __future__ import annotations

from pathlib import Path

import pytest

from merge_core.records import SourceCheckpoint
from tests.support.tiny_llama import (
    base_weights,
    write_llama,
)


@pytest.fixture
def base(tmp_path: Path) -> SourceCheckpoint:
    return write_llama(tmp_path / "base", base_weights())
