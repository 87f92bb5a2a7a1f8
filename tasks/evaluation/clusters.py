"""Which documents of a task were drawn together, by the field that the suite names."""

from __future__ import annotations

import hashlib
from typing import Any

from merge_core.errors import did_you_mean
from tasks.processes.model import Problem

_LONGEST = 64
"""Characters of a label that are kept; a longer one, a whole passage say, is kept as its digest."""


def check_cluster(field: str, document: Any, task: str, place: str) -> None:
    """Refuse a field that documents do not have, before anything is evaluated.

    Args:
        place: in the suite.

    Raises:
        Problem: the task's first document has no such field.
    """
    names = sorted(map(str, document)) if isinstance(document, dict) else []
    if field not in names:
        mend = did_you_mean(field, names) if names else "its documents have no fields: leave it out"
        raise Problem(f"documents of task '{task}' have no field '{field}'", place=place, mend=mend)


def cluster_of(field: str, document: Any, task: str, place: str) -> str:
    """The label of one document's cluster.

    Raises:
        Problem: the field holds no text and no number.
    """
    value = document.get(field) if isinstance(document, dict) else None
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        raise Problem(
            f"a document of task '{task}' has no text and no number in its field '{field}'",
            place=place,
            mend="name a field that every document has, or leave `cluster` out",
        )
    label = str(value)
    return label if len(label) <= _LONGEST else hashlib.sha256(label.encode()).hexdigest()
