"""What the history of a model says of the alias, of a pin and of a version's run, beside what the
registry says. Lines that follow each other may still have been written by somebody else."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from merge_core.text.plain import plain
from tasks.audit.evidence import Evidence
from tasks.audit.report import Answers
from tasks.registry.alias_state import PIN_TAG, AliasState
from tasks.registry.client import TAG
from tasks.registry.file_list import FILE_LIST, FILES_TAG
from tasks.registry.history import History, HistoryLine, chains_elsewhere
from tasks.registry.history_order import out_of_place, told_by_clocks
from tasks.registry.memory import EMBEDDED
from tasks.registry.moments import CLOCK, moment, time_of

_LONGEST = 1000
_BY_HAND = ("promote", "rollback")
_OF_A_DECISION = ("intended", "moved", "not_moved", "kept")


class _Chosen(NamedTuple):
    """A version that a person chose, as history or registry say it."""

    version: str | None
    how: str | None
    why: str | None
    by: str | None


def of_lines(found: Sequence[History], state: AliasState, answers: Answers) -> None:
    """The lines could have been written one after the other."""
    for history in found:
        if history.all_problems(state.tags):
            continue  # which is said
        named = f"the history {history.chain}"
        wrong = out_of_place(history)
        if wrong is not None:
            answers.fails(f"{named}: {wrong}")
        for doubt in told_by_clocks(history):
            answers.unknown(f"{named}: {doubt}")
        begun = history.open_intention()
        if begun is not None:
            answers.unknown(
                f"{named}: line {begun.number} begins a move that no line ends: its command runs"
                " now, or was killed, and the next one ends it"
            )
        if history.torn:
            answers.unknown(f"{named}: its last line was not written to its end")


def of_alias(state: AliasState, found: Sequence[History], answers: Answers) -> None:
    """The alias and the pin are where the last lines put them, if the last move was this home's."""
    chain = state.note.chain if state.note is not None else None
    known = {*(each.chain for each in found), *chains_elsewhere(found, state.tags)}
    if chain is not None and chain not in known:
        answers.fails(f"the last move of the alias is in the history {chain}, which nobody has")
    history = _ours(state, found)
    if history is None or state.moved_elsewhere:
        return
    if state.note is None:
        answers.fails("the registry's note of the last move of the alias is gone")
    if PIN_TAG in state.tags and state.pin is None:
        answers.fails("the registry's pin cannot be read, so it keeps no run from moving the alias")
    begun = history.open_intention()
    if begun is not None and state.holder in (begun.version, begun.previous):
        return  # a move that was killed; the next command ends it
    if history.holder() != state.holder:
        answers.fails(
            f"by the history {_called(history.holder())} has the alias, and by the registry"
            f" {_called(state.holder)}"
        )
    chosen = _chosen(history.lines)
    pin = state.pin if state.is_pinned else None
    now = (
        _Chosen(pin.version, pin.how, plain(pin.why, _LONGEST), pin.by and plain(pin.by))
        if pin
        else None
    )
    if now is not None and (
        chosen is None or (now.version, now.how) != (chosen.version, chosen.how)
    ):
        answers.fails(f"version {now.version} is pinned, and no line of the history says by whom")
    elif now is not None and chosen is not None and now != chosen:
        answers.fails("who pinned it and why is not what the history says")
    elif now is None and chosen is not None and chosen.version == state.holder:
        answers.fails(f"the pin of version {chosen.version} was taken off outside of mergeflow")


def of_run(
    evidence: Evidence,
    state: AliasState,
    found: Sequence[History],
    elsewhere: Sequence[str],
    answers: Answers,
) -> None:
    """The history knows the version's run, and says of it what the run says."""
    run, version = evidence.run, str(evidence.version.version)
    lines = [line for history in found for line in history.lines]
    for line in lines:
        if line.model != evidence.version.name:
            answers.fails(f"line {line.number} of the history is of the model {line.model}")
            break
    if run is None:
        return
    own = [line for line in lines if line.run_id == run.info.run_id]
    candidates = {line.candidate for line in own if line.candidate}
    if candidates and version not in candidates:
        named = ", ".join(sorted(candidates))
        answers.fails(f"the history says that its run registered version {named}, not {version}")
    decision = evidence.decision
    for line in own:
        if decision is not None and line.verdict is not None:
            by = decision.approval.by if decision.approval else None
            said = f"line {line.number} of the history"
            answers.same("who approved, by the decision", by and plain(by), line.by, said)
        if line.event in _OF_A_DECISION and line.how == "run":
            noted = f"line {line.number} of the history"
            if line.files not in (None, run.data.tags.get(FILES_TAG)):
                answers.fails(
                    f"the list of the run's files was written anew, or taken off: {noted} has"
                    f" another sha256 of {FILE_LIST} than the run"
                )
            if line.verdict is None and (line.completes is None or line.candidate is not None):
                answers.fails(f"{noted} speaks of its run, and says no verdict")
        if _written(line) < time_of(run.info.start_time) - CLOCK:
            answers.fails(f"line {line.number} of the history is older than the run it speaks of")
        elif evidence.is_listed and _written(line) < time_of(run.info.end_time) - CLOCK:
            answers.fails(f"the run ended after line {line.number} of the history, which knows it")
    intended = [line for line in own if line.event == "intended" and line.how == "run"]
    before = run.data.tags.get(TAG + "previous_champion")
    if intended and before is not None:
        said = f"line {intended[-1].number} of the history"
        answers.same(
            "the champion before, by the run", before, intended[-1].previous or "none", said
        )
    if own or elsewhere:
        return
    history = _ours(state, found)
    if history is None or not history.lines:
        return
    if FILES_TAG in run.data.tags or _written(history.lines[0]) < time_of(run.info.end_time):
        answers.fails(
            "no line of the history speaks of its run: lines were taken out, or its registration"
            " was interrupted, which the same command ends"
        )


def of_lost(evidence: Evidence, state: AliasState, address: str, answers: Answers) -> None:
    """The home has no history of a model in its own database, for which it merged."""
    place = evidence.checkpoint.directory if evidence.checkpoint else None
    here = place is not None and place.parent == evidence.home.objects
    kept = evidence.run is not None and FILES_TAG in evidence.run.data.tags
    noted = state.note is not None and state.note.chain is not None
    if evidence.is_merge and address == EMBEDDED and here and (kept or noted):
        answers.fails("the history that this home kept of the model is gone")


def _ours(state: AliasState, found: Sequence[History]) -> History | None:
    """The history that has the last move; None where another home made it, or it is broken."""
    if any(history.all_problems(state.tags) for history in found):
        return None  # which is said
    if state.note is None:
        return found[0] if len(found) == 1 else None
    return next((each for each in found if each.chain == state.note.chain), None)


def _called(version: str | None) -> str:
    return f"version {version}" if version else "no version"


def _chosen(lines: Sequence[HistoryLine]) -> _Chosen | None:
    """The version that is pinned after these lines."""
    chosen: _Chosen | None = None
    for line in lines:
        by_hand = line.event in ("moved", "pinned") and line.how in _BY_HAND
        if by_hand:
            chosen = _Chosen(line.version, line.how, line.why, line.by)
        elif line.event == "unpinned" or (line.event == "moved" and line.how == "run"):
            chosen = None
    return chosen


def _written(line: HistoryLine) -> datetime:
    """When a line was written; a time that is none is as old as can be."""
    return moment(line.at) or time_of(0)
