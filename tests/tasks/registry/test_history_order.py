"""A history that was really written, and the same lines as nobody could have written them."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise

from tasks.registry.history import History, HistoryLine, read_history
from tasks.registry.history_order import out_of_place, told_by_clocks
from tests.support.audited import Audited


def written(audited: Audited) -> History:
    """Found, intended, moved, kept."""
    [file] = audited.home.history.glob("*.jsonl")
    history = read_history(file, file.stem.rpartition("-")[2])
    assert [line.event for line in history.lines] == ["found", "intended", "moved", "kept"]
    return history


def of(history: History, lines: list[HistoryLine]) -> History:
    """Another order, whose numbers are right again."""
    changed = deepcopy(history)
    changed.lines = [
        line.model_copy(update={"number": number}) for number, line in enumerate(lines, 1)
    ]
    return changed


def test_what_was_written_stands_where_it_stands(audited: Audited) -> None:
    history = written(audited)
    assert out_of_place(history) is None
    assert list(told_by_clocks(history)) == []
    assert all(line.files for line in history.lines[1:]), "each knows the list of the run's files"


def test_no_two_lines_can_be_exchanged_and_none_left_out_or_repeated(audited: Audited) -> None:
    history = written(audited)
    lines = history.lines
    for one, other in pairwise(range(len(lines))):
        order = list(lines)
        order[one], order[other] = lines[other], lines[one]
        assert out_of_place(of(history, order)), (one, other)
    for number in range(len(lines) - 1):
        assert out_of_place(of(history, lines[:number] + lines[number + 1 :])), number
    for number in range(len(lines)):
        assert out_of_place(of(history, lines[: number + 1] + lines[number:])), number


def test_a_move_that_was_killed_is_no_tampering(audited: Audited) -> None:
    history = written(audited)
    found, intended, moved, _ = history.lines
    assert out_of_place(of(history, [found, intended])) is None
    back = moved.model_copy(update={"event": "not_moved", "version": None, "why": "killed"})
    assert out_of_place(of(history, [found, intended, back])) is None


def test_a_clock_that_was_set_back_is_told_and_proves_nothing(audited: Audited) -> None:
    history = written(audited)
    lines = list(history.lines)
    lines[3] = lines[3].model_copy(update={"at": "2020-01-01T00:00:00+00:00"})
    changed = of(history, lines)
    assert out_of_place(changed) is None
    assert [each.partition(":")[0] for each in told_by_clocks(changed)] == [
        "line 4 is dated before the line before it"
    ]
    lines[3] = lines[3].model_copy(update={"at": "2999-01-01T00:00:00"})
    assert ["future" in each for each in told_by_clocks(of(history, lines))] == [True]
