"""Scores, and the values of single documents, as tables that MLflow's pages show.

A table is a JSON file of columns and rows, as `run_files.log_tables` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.records import Decision, EvaluationReport

DOCUMENTS, SCORES = "documents.json", "scores.json"
"""Among the files of a run."""

_MAIN = 2

Table = dict[str, list[Any]]
"""`columns`, and `data`: a list for each row."""


def scores_table(reports: Mapping[str, EvaluationReport], decision: Decision) -> Table:
    """A row for each task: everyone's score, and how surely the merge changed it.

    Args:
        reports: by role: `base`, `merged`, `expert/NAME`.
    """
    compared = {each.task: each for each in decision.comparisons}
    known = {role: {each.task: each.score for each in of.scores} for role, of in reports.items()}
    roles = _in_order(reports)
    rows = []
    for score in max(reports.values(), key=lambda report: len(report.scores)).scores:
        own = [_shown(known[role].get(score.task)) for role in roles]
        change = compared.get(score.task)
        found = (change.improvement, change.low, change.high) if change else (None,) * 3
        better, low, high = map(_shown, found)
        main, experts = own[:_MAIN], own[_MAIN:]
        outcome = change.outcome if change else ""
        of_task = [score.metric, len(score.doc_ids)]
        rows.append([score.task, *main, better, outcome, low, high, *of_task, *experts])
    head = ["task", *roles[:_MAIN], "better by", "outcome", "surely from", "to"]
    return {"columns": [*head, "metric", "documents", *roles[_MAIN:]], "data": rows}


def documents_table(reports: Mapping[str, EvaluationReport]) -> Table:
    """A row for each document of each task, with what every checkpoint got on it.

    Args:
        reports: by role.
    """
    values: dict[tuple[str, str], dict[str, float]] = {}
    for role, report in reports.items():
        for score in report.scores:
            for document, value, weight in zip(
                score.doc_ids, score.values, score.weights, strict=True
            ):
                values.setdefault((score.task, document), {})[role] = _of_document(value, weight)
    roles = _in_order(reports)
    rows = [
        [task, *(_shown(found.get(role)) for role in roles), document]
        for (task, document), found in values.items()
    ]
    return {"columns": ["task", *roles, "document"], "data": rows}


def evaluation_table(report: EvaluationReport) -> Table:
    """A row for each document of each task of one evaluation."""
    rows = [
        [score.task, score.metric, _shown(_of_document(value, weight)), _shown(weight), document]
        for score in report.scores
        for document, value, weight in zip(score.doc_ids, score.values, score.weights, strict=True)
    ]
    return {"columns": ["task", "metric", "score", "weight", "document"], "data": rows}


def _of_document(value: float, weight: float) -> float:
    """What one document counts by itself, in the metric's own unit; of perplexities, in bits."""
    return value / weight if weight else value


def _in_order(reports: Mapping[str, EvaluationReport]) -> list[str]:
    """Base and merged first: MLflow shows as many columns as the window has room for."""
    main = [role for role in ("base", "merged") if role in reports]
    return [*main, *(role for role in reports if role not in main)]


def _shown(value: float | None) -> float | None:
    """Six digits, to be read; `evaluation.json` has all of them."""
    return None if value is None else float(f"{value:.6g}")
