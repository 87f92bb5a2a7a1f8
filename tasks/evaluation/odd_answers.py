"""What went oddly in an evaluation without stopping it: told beside the scores, for each model."""

from __future__ import annotations

from tasks.records import EvaluationReport, TaskScore

KINDS = {
    "non_finite": "scores that are not finite numbers",
    "truncated": "prompts cut to fit the context",
    "empty": "empty answers",
    "cut_off": "answers cut off at the token limit",
    "looping": "answers that repeat themselves",
}
"""What is counted of each task, as `TaskScore` names it, and as people are told."""


def counted(score: TaskScore) -> dict[str, int]:
    """The counts of one task that were made; a record of earlier code has none."""
    counts = {kind: getattr(score, kind) for kind in KINDS}
    return {kind: count for kind, count in counts.items() if count is not None}


def odd_answers(report: EvaluationReport) -> tuple[str, ...]:
    """One line for each task with anything odd: `quiz: of 40 documents 2 empty answers`."""
    lines = []
    if report.truncated and all(score.truncated is None for score in report.scores):
        lines.append(f"{report.truncated} documents in all: {KINDS['truncated']}")
    for score in report.scores:
        documents = len(score.doc_ids)
        found = {KINDS[kind]: count for kind, count in counted(score).items() if count}
        if found:
            said = ", ".join(f"{count} {what}" for what, count in found.items())
            lines.append(f"{score.task}: of {documents} documents {said}")
    return tuple(lines)
