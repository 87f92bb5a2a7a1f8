"""What a candidate is compared with: the names that a rule may use for it, or a reference."""

from __future__ import annotations

from typing import Any

from merge_core.errors import did_you_mean
from merge_core.records import Record
from tasks.records import EvaluationReport

OF_A_MERGE = ("base", "champion", "best_expert")
"""Names that a merge's rule may use. Any other text is a reference."""
OF_AN_AVERAGE = ("latest", "best", "champion")
"""Those of an average's rule."""
SPOKEN = {
    "base": "base",
    "champion": "champion",
    "best_expert": "best expert",
    "latest": "latest checkpoint",
    "best": "best checkpoint",
}
"""What each is called where people read of it."""
MOVING = ("champion", "latest checkpoint", "best checkpoint")
"""Baselines that may be another checkpoint in the next run. Any other one stays, and all runs that
compare with it share alpha."""
_MARKS_OF_A_REFERENCE = "/:.~$"
"""A path, org/name on the Hub, or models:/ address has one of these; a name has none."""


class ComparedWith(Record):
    """A checkpoint that a candidate has to beat."""

    name: str
    """What it is called: champion, base, or a reference."""
    report: EvaluationReport


class Compared(Record):
    """What a decision was made from besides candidate and rule: enough to make it again."""

    called: str = "base"
    """The name of the first baseline."""
    baseline_digest: str
    others: tuple[ComparedWith, ...] = ()
    origin: EvaluationReport | None = None
    expert_digests: tuple[str, ...] = ()
    """Digests of the experts, in the order in which the decision took them."""


def read_baselines(value: Any, names: tuple[str, ...]) -> Any:
    """One baseline as text, several as a tuple, from what a rule says.

    Raises ValueError for what is no text, none at all, one twice, and a word that is neither a name
    nor a reference.
    """
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise ValueError("write a name, or a list of names")
    found = [each.strip() for each in value]
    if not found:
        raise ValueError(f"name at least one baseline: {', '.join(names)} or a checkpoint")
    for each in found:
        if found.count(each) > 1:
            raise ValueError(f"'{each}' is there twice; name it once")
        if each not in names and not set(each) & set(_MARKS_OF_A_REFERENCE):
            raise ValueError(
                f"'{each}' is no baseline; {did_you_mean(each, names)} (or give a checkpoint, such"
                " as ./anchor, org/name or models:/NAME@ALIAS)"
            )
    return found[0] if len(found) == 1 else tuple(found)
