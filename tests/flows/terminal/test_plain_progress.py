"""Progress in logs and pipes: rates and times are those of the stage that is shown."""

from __future__ import annotations

import time

import pytest

from flows.terminal.console import Terminal
from merge_core.progress import ProgressEvent


def told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *events: object
) -> str:
    """What is written for pairs of a moment and an event."""
    moments = iter(events)
    with Terminal(machine=True).progress() as listen:
        for moment in moments:
            monkeypatch.setattr(time, "monotonic", lambda at=moment: at)
            event = next(moments)
            assert isinstance(event, ProgressEvent)
            assert listen is not None
            listen(event)
    return capsys.readouterr().err


def of(done: int, stage: str = "check base") -> ProgressEvent:
    return ProgressEvent(stage, done, 1000, "bytes")


def test_a_stage_that_was_done_before_starts_a_clock_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = (0.0, of(1), 1.0, of(1000))
    again = (600.0, of(10), 606.0, of(500))
    said = told(monkeypatch, capsys, *first, *again)
    assert said.splitlines() == ["    check base: 50 % of 1.0 KB, 83 bytes/s, 6.0 s left"]


def test_a_stage_that_broke_off_starts_a_clock_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = told(monkeypatch, capsys, 0.0, of(1), 1.0, of(900), 600.0, of(10), 606.0, of(500))
    assert said.splitlines() == ["    check base: 50 % of 1.0 KB, 83 bytes/s, 6.0 s left"]
