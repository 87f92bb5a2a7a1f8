"""The text of documents that a run keeps: each is the one that was evaluated."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tasks.audit.evidence import Evidence
from tasks.audit.report import Answers
from tasks.evaluation.document_texts import DIRECTORY, file_of_task, ids_in
from tasks.records import EvaluationReport


def check(evidence: Evidence, answers: Answers) -> None:
    """Each file has the lock's sha256 and the documents of the evaluations, text by digest."""
    if evidence.lock is None:
        return  # `lock` says so
    noted = evidence.lock.documents
    for name in sorted(set(evidence.names_in(DIRECTORY)) - set(noted)):
        answers.fails(f"{name} has text that lock.json does not know of")
    reports = [each.report for each in evidence.evaluations if each.report is not None]
    for name, sha256 in noted.items():
        content = evidence.file(name)
        if content is None:
            answers.fails(f"{name}, the text of documents that lock.json speaks of, is gone")
            continue
        answers.same(
            f"the sha256 of {name}", hashlib.sha256(content).hexdigest(), sha256, "lock.json"
        )
        _documents(name, content, reports, answers)


def _documents(
    name: str, content: bytes, reports: Sequence[EvaluationReport], answers: Answers
) -> None:
    try:
        found = dict(ids_in(content))
    except ValueError:
        answers.fails(f"{name} cannot be read")
        return
    other = [known_by for known_by, is_its_text in found.items() if not is_its_text]
    if other:
        answers.fails(
            f"{name}: {len(other)} of {len(found)} documents have another text than was evaluated,"
            f" {other[0]} first"
        )
    evaluated = {
        known_by
        for report in reports
        for score in report.scores
        if file_of_task(score.task) == name
        for known_by in score.doc_ids
    }
    if evaluated != set(found):
        missing, more = len(evaluated - set(found)), len(set(found) - evaluated)
        answers.fails(
            f"{name} is not what was evaluated: {missing} documents are missing, and {more} were"
            " not evaluated"
        )
