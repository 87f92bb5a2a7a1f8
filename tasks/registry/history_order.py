"""Whether the lines of a history could have been written one after the other, by `AliasKeeper`.

Lines that follow each other by their digests may still be somebody else's: in another order, twice,
or without the one that a line speaks of.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from merge_core.findings import printable
from tasks.registry.history import History, HistoryLine
from tasks.registry.moments import CLOCK, moment

_OF_NO_MOMENT = {"number", "before", "at"}


def out_of_place(history: History) -> str | None:
    """The first line that cannot stand where it stands, and why; None where each can."""
    holder: str | None = None
    begun: HistoryLine | None = None
    last: HistoryLine | None = None
    for line in history.lines:
        why = _why_not(line, last, begun, holder)
        if why is not None:
            return f"line {line.number} cannot stand there: {why}"
        begun = line if line.event == "intended" else None
        if line.event not in ("intended", "pinned", "signed"):
            holder = line.version
        last = line
    return None


def told_by_clocks(history: History) -> Iterator[str]:
    """Times that are no proof of anything: a clock may have been wrong."""
    latest: datetime | None = None
    for line in history.lines:
        written = moment(line.at)
        if written is None:
            return  # which is said
        if latest is not None and written < latest - CLOCK:
            yield (
                f"line {line.number} is dated before the line before it: the clock was set back"
                " then, or somebody else wrote it"
            )
        latest = written
    if latest is not None and latest > datetime.now(UTC) + CLOCK:
        yield "its last line is dated in the future: a clock is wrong, or somebody else wrote it"


def _why_not(
    line: HistoryLine, last: HistoryLine | None, begun: HistoryLine | None, holder: str | None
) -> str | None:
    if moment(line.at) is None:
        return f"it says no time: {printable(line.at, 40)}"
    if last is None:
        return None if line.event == "found" else "a history begins with where the alias was found"
    if begun is not None:
        if line.event not in ("moved", "not_moved") or line.completes != begun.number:
            return f"line {begun.number} begins a move, and this line does not end it"
        if line.previous != begun.previous:
            return f"it ends the move of line {begun.number}, from another version"
        if line.event == "moved" and line.version != begun.version:
            return f"it ends the move of line {begun.number}, to another version"
        return None
    if line.event == "moved" or line.completes is not None:
        return "it ends a move that no line before it begins"
    if line.event in ("intended", "pinned", "found") and line.previous != holder:
        return f"it says that {_called(line.previous)} had the alias, and {_called(holder)} had it"
    if line.event in ("kept", "unpinned", "pinned", "not_moved") and line.version != holder:
        return f"it says that {_called(line.version)} has the alias, and {_called(holder)} has it"
    if line.event == "kept" and _same(line, last):
        return f"it says what line {last.number} says, and a run that is repeated writes no line"
    return None


def _same(one: HistoryLine, other: HistoryLine) -> bool:
    return one.model_dump(exclude=_OF_NO_MOMENT) == other.model_dump(exclude=_OF_NO_MOMENT)


def _called(version: str | None) -> str:
    return f"version {version}" if version else "no version"
