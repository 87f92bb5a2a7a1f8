"""Compares what the rows of two classifiers' heads stand for: `id2label`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from merge_core.configs.sizes import Headers
from merge_core.findings import Finding, printable, some
from merge_core.tensors.names import group_of
from merge_core.verification.left_out import exclude_line
from merge_core.verification.tolerance import Tolerance

_PLACE = "config.json: id2label"
_UNNAMED = re.compile(r"label_?\d+")


def label_findings(
    base: tuple[str, Mapping[str, Any], Headers],
    model: tuple[str, Mapping[str, Any]],
    tolerance: Tolerance,
) -> list[Finding]:
    """An error for the same labels in another order, a warning for others; rows are merged by
    their numbers.

    Args:
        base: its name, config and headers.
        model: its name and config.
    """
    (base_name, base_config, headers), (name, config) = base, model
    ours, theirs = _labels(config), _labels(base_config)
    changed = [row for row in sorted(ours.keys() & theirs.keys()) if ours[row] != theirs[row]]
    heads = [tensor for tensor in headers if group_of(tensor) == "head"]
    if not changed or all(tolerance.is_excluded(tensor) for tensor in heads):
        return []
    values = some(
        f"row {row} is {printable(ours[row], 40)}, there {printable(theirs[row], 40)}"
        for row in changed
    )
    others = [tensor for tensor in headers if tensor not in heads]
    line = exclude_line(heads, others, already=bool(tolerance.exclude))
    if sorted(ours.values()) == sorted(theirs.values()):
        mend = "save it again with its head's rows and id2label in the base's order"
        if line:
            mend = (
                f"if only the rest is to be merged, {line} in the recipe: the result then has"
                f" {base_name}'s head; if not, save it again with its head's rows and id2label in"
                " the base's order"
            )
        return [
            Finding(
                severity="error",
                code="labels-in-other-order",
                subject=name,
                message=f"it has the labels of {base_name} in another order: {values}; rows of a"
                " head are merged by their numbers",
                mend=mend,
                where=_PLACE,
            )
        ]
    return [
        Finding(
            severity="warning",
            code="labels-differ",
            subject=name,
            message=f"its labels are not those of {base_name}: {values}",
            mend="nothing, if only the names differ; if they stand for other classes, leave the"
            " head out by `exclude`",
            where=_PLACE,
        )
    ]


def _labels(config: Mapping[str, Any]) -> dict[str, str]:
    """What each row stands for, by its number; empty where nobody gave them names."""
    named = config.get("id2label")
    if not isinstance(named, dict):
        return {}
    labels = {str(row): str(label).strip().lower() for row, label in named.items()}
    return {} if all(_UNNAMED.fullmatch(label) for label in labels.values()) else labels
