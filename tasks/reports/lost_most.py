"""The documents on which a candidate lost most, for whoever wants to read them."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.promotion.wording import in_unit, number
from tasks.records import Decision, EvaluationReport, TaskScore

SHOWN = 3
"""Documents of a task."""


@dataclass(frozen=True)
class LostOn:
    """A document on which the candidate does worse than the baseline."""

    place: int
    """Of the document in the candidate's report, from 0."""
    document: str
    """lm-eval's hash of it."""
    change: float
    """For each unit of the document's weight (a byte, say), in the metric's own unit; below 0."""


def lost_most(baseline: TaskScore, candidate: TaskScore, count: int = SHOWN) -> list[LostOn]:
    """The documents that cost most in the task's score, the costliest first."""
    before = dict(zip(baseline.doc_ids, baseline.values, strict=True))
    sign = 1 if candidate.higher_is_better else -1
    costs = []
    for place, (document, value, weight) in enumerate(
        zip(candidate.doc_ids, candidate.values, candidate.weights, strict=True)
    ):
        change = sign * (value - before[document]) if document in before else 0.0
        if change < 0:
            costs.append((change, place, LostOn(place, document, change / (weight or 1.0))))
    return [lost for _, _, lost in sorted(costs, key=lambda each: each[:2])[:count]]


def lost_most_lines(
    decision: Decision, baseline: EvaluationReport, candidate: EvaluationReport
) -> list[str]:
    """A sentence for each task that is not surely held."""
    tasks = decision.gate.tasks if decision.gate else ()
    became_wrong = {task.task: task.lost for task in tasks}
    lines = []
    for comparison in decision.comparisons:
        if comparison.outcome == "held":
            continue
        score = candidate.score(comparison.task)
        found = lost_most(baseline.score(comparison.task), score)
        if found:
            wrong = became_wrong.get(comparison.task)
            if wrong is None:
                sizes = [f", {number(each.change)}" for each in found]
                ends = in_unit(comparison.metric)
            else:
                sizes, ends = [""] * len(found), f"of the {wrong} that became wrong"
            listed = ", ".join(
                f"{each.place} ({each.document[:8]}{size})"
                for each, size in zip(found, sizes, strict=True)
            )
            lines.append(f"{comparison.task}: documents {listed} {ends}")
    return lines
