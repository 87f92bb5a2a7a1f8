"""What the tests that follow mends share: small checkpoints, the command, and the advice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.field.mends.situations import fine_tune, tensors_of
from tests.support.checkpoints import write_checkpoint
from tests.support.followed_mends import Advice, Shell, mends_of, test_named


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a base and two fine-tunes of it: `base`, `a`, `b`."""
    place = tmp_path / "work"
    base = tensors_of(0)
    write_checkpoint(place / "base", base)
    for number, name in enumerate("ab", 1):
        write_checkpoint(place / name, fine_tune(base, number))
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def mergeflow(capsys: pytest.CaptureFixture[str]) -> Shell:
    """The command."""
    return Shell(capsys)


@pytest.fixture
def advice(request: pytest.FixtureRequest) -> Advice:
    """What is said to this test; it must follow what the tables say that it follows."""
    return Advice(mends_of(test_named(request.node.nodeid, request.node.path)))
