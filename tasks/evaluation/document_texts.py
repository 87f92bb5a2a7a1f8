"""The text of the documents that an evaluation had, read again without a model.

Evaluations keep digests of documents alone, in caches too. So their text is read once more where a
record is to have it, and a document whose digest is not the evaluation's is not kept as its text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from merge_core.files.bounded_json import parse_json
from tasks.evaluation.evaluators import Evaluators
from tasks.evaluation.suite import Suite
from tasks.records import EvaluationReport

DIRECTORY = "documents"
"""Among the files of a merge's run in MLflow."""


class Texts(NamedTuple):
    """What a record keeps of an evaluation's documents."""

    files: dict[str, bytes]
    """By the name in the record: a line of JSON for each document, with its id."""
    left_out: tuple[str, ...] = ()
    """Why documents are not among them."""


def document_texts(
    suite: Suite,
    report: EvaluationReport,
    evaluators: Evaluators,
    device: str,
    threads: int | None,
    most_bytes: int,
) -> Texts:
    """The documents of each task of an evaluation; all of a task's, or none.

    Args:
        report: says which documents were evaluated.
        device: as for the evaluation, whose process may still wait.
        most_bytes: of all files together.
    """
    wanted = [list(score.doc_ids) for score in report.scores]
    said = evaluators.texts(suite, device, threads, wanted, most_bytes)
    if said.problem is not None:
        return Texts({}, (f"the documents cannot be read again: {said.problem}", _DIGESTS_ALONE))
    files: dict[str, bytes] = {}
    left_out: list[str] = []
    for score, of_task, content in zip(report.scores, said.found, said.files, strict=True):
        if of_task["too_large"]:
            left_out.append(
                f"the documents of {score.task} are too large: {most_bytes:,} bytes are the most"
                " that is kept of a suite and its documents"
            )
        elif content is None:
            left_out.append(
                f"{of_task['missing']} of {len(set(score.doc_ids))} documents of {score.task} are"
                " not in its data any more as they were evaluated"
            )
        else:
            files[file_of_task(score.task)] = content
    return Texts(files, (*left_out, _DIGESTS_ALONE) if left_out else ())


_DIGESTS_ALONE = "of documents without text the record has the digests"


def file_of_task(task: str) -> str:
    """Where the documents of a task lie in the record."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", task)
    if plain != task:
        plain += f"-{hashlib.sha256(task.encode()).hexdigest()[:8]}"
    return f"{DIRECTORY}/{plain}.jsonl"


def ids_in(content: bytes) -> Iterator[tuple[str, bool]]:
    """For each document in such a file its id, and whether the text is the one with this id.

    Raises:
        ValueError: it is no such file.
    """
    for line in content.splitlines():
        document = parse_json(line)
        if not isinstance(document, dict) or set(document) != {"doc_id", "doc"}:
            raise ValueError("a line is no document with its id")
        known_by = str(document["doc_id"])
        # As lm-eval computes it.
        text = json.dumps(document["doc"], indent=2, ensure_ascii=False)
        digest = hashlib.sha256(text.encode()).hexdigest()
        yield known_by, known_by.rpartition(":")[2] == digest
