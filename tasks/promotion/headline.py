"""The one line that says how a decision ended, wherever people read it."""

from __future__ import annotations

from tasks.records import Decision
from tasks.roles import MERGE

CANDIDATE = "the candidate"
"""What it is called where nothing is known of it but its report."""


def headline(
    decision: Decision,
    candidate: str = MERGE.the_candidate,
    baseline: str = MERGE.the_baseline,
) -> str:
    """How a decision ended and which checkpoint serves, in one line.

    The reasons that follow it are in `calibrated_reasons` and `former_reasons`.
    """
    if decision.verdict == "promoted":
        return f"Promoted: {candidate} replaces {baseline}"
    if decision.verdict == "fell_back":
        return f"Fell back: {baseline} stays"
    rest = f"{candidate} is taken, as the rule says" if decision.promote else f"{baseline} stays"
    return f"Inconclusive: {rest}"
