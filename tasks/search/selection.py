"""The candidate that goes on to the gate, and those that no other beats in every task."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.search.trial import Trial


def best(trials: Sequence[Trial]) -> Trial | None:
    """The best of those that were evaluated whole; of equal ones the first. None: there is none."""
    whole = [trial for trial in trials if trial.result.outcome == "whole"]
    return max(whole, key=lambda each: (each.result.objective or 0.0, -each.number), default=None)


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """Those evaluated whole than which no other is better in one task and as good in all."""
    whole = [trial for trial in trials if trial.result.outcome == "whole" and trial.result.tasks]
    return [
        one
        for one in whole
        if not any(_beats(other.result.tasks, one.result.tasks) for other in whole)
    ]


def candidates(trials: Sequence[Trial]) -> int:
    """How many different merges were looked at: what a choice among them has to answer for."""
    return len({trial.result.recipe for trial in trials if trial.result.outcome != "failed"})


def _beats(one: dict[str, float], other: dict[str, float]) -> bool:
    return one != other and all(one[task] >= value for task, value in other.items())
