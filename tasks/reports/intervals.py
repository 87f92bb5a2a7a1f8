"""What a decision rests on, as rows to draw: each interval, and what it has to clear.

A row's interval has to lie wholly to the right of its limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.records import CalibratedGate, Decision, KeptOfExpert, Outcome, TaskComparison
from tasks.roles import the


@dataclass(frozen=True)
class Row:
    """One interval."""

    label: str
    low: float
    value: float
    high: float
    limit: float
    outcome: Outcome
    said: str
    """In two words."""


@dataclass(frozen=True)
class Panel:
    """Rows with one axis."""

    title: str
    axis: str
    rows: tuple[Row, ...]


def panels(decision: Decision) -> list[Panel]:
    """The mean and the tasks in units, then what was kept of each expert in percent. None of a
    decision without scores, or of the former gate."""
    if decision.gate is None:
        return []
    first = decision.baselines[0]
    found = [(first, decision.gate, decision.comparisons)]
    found += [(each.baseline, each.gate, each.comparisons) for each in decision.others or ()]
    several = len(found) > 1
    mean, tasks = [], []
    for name, gate, comparisons in found:
        suffix = f", against {the(name)}" if several else ""
        mean.append(_mean(gate, suffix))
        tasks += [
            _task(comparison, gate, place, suffix) for place, comparison in enumerate(comparisons)
        ]
    counted = sum(task.share != 0 for task in decision.gate.tasks)
    over = "1 task" if counted == 1 else f"{counted} tasks"
    drawn = [
        Panel(f"Better on average over {over}?", "change in units; right is better", tuple(mean)),
        Panel(
            "Has any task lost too much?",
            f"change in units{_cut_off(found)}; right is better",
            tuple(tasks),
        ),
    ]
    kept = tuple(_kept(each) for each in decision.gate.kept if each.low is not None)
    if kept:
        title = "How much of each expert's gain was kept?"
        drawn.append(Panel(title, "percent of its gain; right is better", kept))
    return drawn


def _cut_off(
    found: Sequence[tuple[str, CalibratedGate, Sequence[TaskComparison]]],
) -> str:
    """What has to be known of the axis where changes of single documents were clipped."""
    clipped = any(not c.low <= c.improvement <= c.high for _, _, each in found for c in each)
    return ", large changes of single documents cut off" if clipped else ""


def _mean(gate: CalibratedGate, suffix: str) -> Row:
    outcome: Outcome = "unclear"
    if gate.low > gate.exceed:
        outcome = "held"
    elif gate.high <= gate.exceed and gate.change < gate.exceed:
        outcome = "regressed"
    words = {"held": "surely better", "unclear": "perhaps chance", "regressed": "surely not better"}
    label = f"mean{suffix}"
    return Row(label, gate.low, gate.change, gate.high, gate.exceed, outcome, words[outcome])


def _task(comparison: TaskComparison, gate: CalibratedGate, place: int, suffix: str) -> Row:
    task = gate.tasks[place]
    limit = -task.margin
    words = {"held": "not lost", "unclear": "cannot tell", "regressed": "lost too much"}
    said = words[comparison.outcome]
    if task.must_hold and comparison.outcome == "regressed" and task.high > limit:
        limit, said = 0.0, "must hold, and lost"
    if comparison.non_finite and comparison.non_finite[1] > comparison.non_finite[0]:
        said = "not a number"
    label = f"{comparison.task}{suffix}"
    return Row(label, task.low, task.change, task.high, limit, comparison.outcome, said)


def _kept(each: KeptOfExpert) -> Row:
    outcomes: dict[str, Outcome] = {"kept": "held", "unclear": "unclear", "below": "regressed"}
    words = {"kept": "kept", "unclear": "cannot tell", "below": "too little kept"}
    assert each.low is not None
    assert each.high is not None
    assert each.asked is not None
    sizes = (100 * each.low, 100 * each.kept, 100 * each.high, 100 * each.asked)
    return Row(f"{each.expert} on {each.task}", *sizes, outcomes[each.outcome], words[each.outcome])
