"""The tables that MLflow's pages show: what they say is what the evaluations say."""

from __future__ import annotations

import json
from typing import Any

from tasks.audit.evidence import Evidence
from tasks.audit.report import Answers
from tasks.registry.tables import (
    DOCUMENTS,
    SCORES,
    Table,
    documents_table,
    evaluation_table,
    scores_table,
)


def check(evidence: Evidence, answers: Answers) -> None:
    """Each table is made again; runs of before have none."""
    reports = {each.role: each.report for each in evidence.evaluations if each.report is not None}
    for each in evidence.evaluations:
        if each.report is not None:
            kept = evidence.file(DOCUMENTS, each.run)
            _same(f"{each.role}: {DOCUMENTS}", kept, evaluation_table(each.report), answers)
    if len(reports) != len(evidence.evaluations) or not reports:
        return  # `scores` says so
    _same(DOCUMENTS, evidence.file(DOCUMENTS), documents_table(reports), answers)
    if evidence.decision is not None:
        made = scores_table(reports, evidence.decision)
        _same(SCORES, evidence.file(SCORES), made, answers)


def _same(what: str, kept: bytes | None, made: Table, answers: Answers) -> None:
    if kept is None:
        return
    try:
        found = json.loads(kept)
        same = _by_column(found) == _by_column(json.loads(json.dumps(made)))
    except (ValueError, KeyError, TypeError):
        same = False
    if not same:
        answers.fails(f"{what}, which MLflow shows, is not what the evaluations say")


def _by_column(table: Table) -> dict[str, list[Any]]:
    """Columns by name: they stand in the order in which the evaluations were made."""
    rows = table["data"]
    return {name: [row[place] for row in rows] for place, name in enumerate(table["columns"])}
