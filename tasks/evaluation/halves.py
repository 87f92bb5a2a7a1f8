"""Which half of a split suite a document belongs to: by its group, so that no group is in both."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tasks.evaluation.clusters import cluster_of
from tasks.processes.model import Problem

_SEED = "mergeflow"


def keep_half(
    task: Any, name: str, field: str | None, search: float, part: str, place: str
) -> None:
    """Leave an lm-eval task the documents of one half.

    Groups are ordered by a digest of their names and the first of them are for searching, so tasks
    over the same groups are split alike.

    Args:
        field: the documents' field that names their group; None: each document is a group.
        search: the share of the groups in the half for searching.
        part: the half to leave, `search` or `decide`.
        place: in the suite, for messages.

    Raises:
        Problem: no document is left.
    """
    documents = list(task.eval_docs)
    groups = [_group(document, field, name, place) for document in documents]
    ordered = sorted(set(groups), key=_digest)
    of_search = set(ordered[: min(max(1, round(search * len(ordered))), len(ordered) - 1)])
    chosen = [
        document
        for document, group in zip(documents, groups, strict=True)
        if (group in of_search) == (part == "search")
    ]
    if not chosen:
        raise Problem(
            f"task '{name}' has no document in the half '{part}' of the suite: "
            + ("it has only one" if field is None else f"all have the same '{field}'"),
            place=place,
            mend="add a document to the task's data"
            if field is None
            else "add documents of another group, or name as `cluster` a field with several values",
        )
    read = "test_docs" if task.has_test_docs() else "validation_docs"
    setattr(task, read, lambda: chosen)


def _group(document: Any, field: str | None, name: str, place: str) -> str:
    if field is not None:
        return cluster_of(field, document, name, place)
    return json.dumps(document, sort_keys=True, default=str)


def _digest(group: str) -> bytes:
    return hashlib.sha256(f"{_SEED} {group}".encode()).digest()
