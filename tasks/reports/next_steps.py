"""What to do about a merge that was not promoted, as far as the facts of its run tell."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.records import Decision

_SHOWN = 3
"""Warnings that are said again."""


def next_steps(
    decision: Decision, warnings: Sequence[str] = (), *, is_average: bool = False
) -> list[str]:
    """One sentence for each step; none of what was promoted, declined by a person, not measured, or
    has its baseline's own weights.

    Args:
        warnings: what the recipe was warned of.
    """
    baselines = {decision.baseline_digest, *(each.digest for each in decision.others or ())}
    is_same = decision.candidate_digest in baselines
    if decision.promote or decision.approval or is_same or not decision.comparisons or is_average:
        return []
    steps = []
    if warnings:
        more = len(warnings) - _SHOWN
        said = "; ".join(warnings[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        steps.append(f"the recipe was warned of this before the merge: {said}")
    measure = (
        "a diagnosis ('diagnose: true' in the pipeline) measures where these models harm each other"
    )
    if decision.candidates is None:
        measure += "; 'mergeflow search' tries many weights and methods within a budget"
    return [*steps, measure]
