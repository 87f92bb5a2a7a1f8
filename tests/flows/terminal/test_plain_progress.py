"""Progress in logs and pipes: rates and times are those of the stage that is shown."""

from __future__ import annotations

import time

import pytest

from flows.terminal.console import Terminal, pace
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
    assert said.splitlines() == ["    check base: 50 % of 1.0 KB, 82 bytes/s, 6.1 s left"]


def test_a_stage_that_broke_off_starts_a_clock_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = told(monkeypatch, capsys, 0.0, of(1), 1.0, of(900), 600.0, of(10), 606.0, of(500))
    assert said.splitlines() == ["    check base: 50 % of 1.0 KB, 82 bytes/s, 6.1 s left"]


def test_a_rate_is_that_of_what_was_done_meanwhile(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A search that goes on has trials from the beginning."""
    trials = [ProgressEvent("search", done, 9, "trials") for done in (5, 6, 7)]
    said = told(monkeypatch, capsys, 0.0, trials[0], 8.0, trials[1], 90.0, trials[2])
    assert said.splitlines() == [
        "    search: 6 of 9 trials, 8.0 s each, 24 s left",
        "    search: 7 of 9 trials, 45 s each, 1 min 30 s left",
    ]


def test_nothing_done_meanwhile_has_no_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = ProgressEvent("search", 0, 9, "trials")
    assert told(monkeypatch, capsys, 0.0, trials, 8.0, trials) == "    search: 0 of 9 trials\n"
    assert told(monkeypatch, capsys, 0.0, of(0), 8.0, of(0)) == "    check base: 0 % of 1.0 KB\n"


@pytest.mark.parametrize(
    ("rate", "said"),
    [(1234.5, "1,234/s"), (1.0, "1/s"), (0.99, "1.0 s each"), (0.02, "50 s each")],
)
def test_what_takes_longer_than_a_second_is_told_by_how_long_each_takes(
    rate: float, said: str
) -> None:
    assert pace(rate) == said
