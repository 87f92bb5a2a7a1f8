"""Runs that come again on the same documents: against the champion, and against a fixed anchor.

Each night may promote one equal model by chance with probability alpha; sixty nights promote some
in a third of all cases. And a champion that lost its margin yesterday is today's baseline. So a
candidate has to be better than an anchor that stays, at alpha divided by the nights, as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tasks.statistics.judge import judge
from tasks.statistics.measurements import TaskMeasurement
from tasks.statistics.results import GateResult, Verdict
from tasks.statistics.rule import GateRule


def nightly_rules(rule: GateRule, nights: int) -> dict[str, GateRule]:
    """The rules against the champion, and against the anchor at `alpha / nights`.

    Args:
        nights: how many runs there will be on these documents, at least 1.

    Raises ValueError for fewer nights.
    """
    if nights < 1:
        raise ValueError(f"nights: {nights}, has to be at least 1")
    return {"champion": rule, "anchor": replace(rule, alpha=rule.alpha / nights)}


def against_all(
    measurements: Mapping[str, Sequence[TaskMeasurement]],
    rules: Mapping[str, GateRule],
    *,
    look: int | None = None,
) -> tuple[Verdict, dict[str, GateResult]]:
    """Judge one candidate against several baselines: promoted only if it is against each.

    Args:
        measurements: by the baseline's name; the candidate's values are the same in all.
        rules: by the same names.

    Returns:
        The verdict, and the result against each baseline. It fell back if it did against any.

    Raises ValueError as `judge` does, and when a baseline has no rule.
    """
    if not measurements or set(measurements) != set(rules):
        raise ValueError("each baseline needs measurements and a rule")
    results = {name: judge(tasks, rules[name], look=look) for name, tasks in measurements.items()}
    verdicts = {result.verdict for result in results.values()}
    if "fell_back" in verdicts:
        return "fell_back", results
    return ("promoted" if verdicts == {"promoted"} else "inconclusive"), results
