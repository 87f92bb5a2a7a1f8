"""The alias: who has it, by whose doing, and whether the history of it is whole."""

from __future__ import annotations

import os

from tasks.audit import history as told
from tasks.audit.evidence import Evidence
from tasks.audit.report import Answers
from tasks.registry.alias_state import alias_state
from tasks.registry.client import TAG
from tasks.registry.history import HistoryLine, chains_elsewhere, find_histories
from tasks.registry.memory import canonical
from tasks.registry.models import find_logged_model
from tasks.registry.serving_link import serving_link


def check(evidence: Evidence, answers: Answers) -> None:
    """The history's lines follow each other, and say of this version's run what the run says."""
    name = evidence.version.name
    state = alias_state(evidence.registry, name)
    address = canonical(evidence.home, evidence.registry.tracking_uri)
    found = find_histories(evidence.home, address, name, state.tags)
    for history in found:
        for problem in history.all_problems(state.tags):
            answers.fails(f"the history {history.chain}: {problem}")
    for chain in chains_elsewhere(found, state.tags):
        answers.unknown(f"the history {chain} is another home's, or was lost")
    if state.moved_elsewhere:
        answers.fails(f"somebody gave the alias to version {state.holder} outside of mergeflow")
    told.of_lines(found, state, answers)
    told.of_alias(state, found, answers)
    lines = [line for history in found for line in history.lines]
    _of_run(evidence, lines, answers)
    told.of_run(evidence, state, found, chains_elsewhere(found, state.tags), answers)
    _link(evidence, state.holder, answers)
    if not lines:
        told.of_lost(evidence, state, address, answers)
        answers.unknown("this home has no history of the model")
    elif not answers.failed:
        has = f"version {state.holder} has it" if state.holder else "no version has it"
        pinned = ", pinned" if state.is_pinned else ""
        answers.holds(f"{len(lines)} lines of history follow each other; {has}{pinned}")


def _link(evidence: Evidence, holder: str | None, answers: Answers) -> None:
    """The link that a server reads leads to the version that has the alias."""
    name = evidence.version.name
    link = serving_link(evidence.home, name)
    if link is None or not os.path.lexists(link) or holder is None:
        return
    client = evidence.registry.client
    digest = client.get_model_version(name, holder).tags.get(TAG + "digest", "")
    model = find_logged_model(evidence.registry, digest)
    wanted = model.tags.get(TAG + "path") if model else None
    leads = os.path.realpath(link)
    if not link.is_symlink() or wanted is None or leads != os.path.realpath(wanted):
        answers.fails(f"serving/{name} leads to {leads}, and version {holder} has the alias")


def _of_run(evidence: Evidence, lines: list[HistoryLine], answers: Answers) -> None:
    """What the history wrote down of a run when it decided."""
    run, version = evidence.run, str(evidence.version.version)
    if run is not None:
        for line in lines:
            if line.run_id == run.info.run_id and line.verdict is not None:
                said = run.data.tags.get(TAG + "verdict")
                answers.same("the run's verdict", said, line.verdict, f"line {line.number}")
    for line in lines:
        if line.version == version and line.digest is not None and line.event == "moved":
            by = f"line {line.number} of the history"
            answers.same("the version's digest", evidence.digest, line.digest, by)
