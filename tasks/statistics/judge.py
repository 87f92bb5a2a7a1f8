"""The front of the gate: measurements of all tasks in, a verdict with its grounds out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tasks.statistics.changes import TaskArrays, part_of
from tasks.statistics.decision import Judged, judge_arrays
from tasks.statistics.guards import limits
from tasks.statistics.measurements import CheckedTask, TaskMeasurement, checked
from tasks.statistics.plan import margin_of, planned_task, zip_shares
from tasks.statistics.results import (
    GateResult,
    Kept,
    Outcome,
    PrimaryResult,
    RetentionResult,
    TaskResult,
    Verdict,
    WorstDocument,
)
from tasks.statistics.rule import GateRule

WORST = 10
"""Documents of a task that are named because they cost the candidate most."""


def judge(
    tasks: Sequence[TaskMeasurement], rule: GateRule | None = None, *, look: int | None = None
) -> GateResult:
    """Judge a candidate against a baseline on all tasks at once.

    Promoted needs everything: the weighted mean change certainly above `exceed`, and every task
    certainly not worse than minus its margin, at a one-sided `alpha` over all looks. It fell back
    if a task has no finite value, certainly lost its margin, or lost anything where it must hold;
    if the mean is certainly not above `exceed`, if certainly too little of an expert was kept, or
    if there is hardly a chance left.
    Margins come from the baseline and the experts alone, so they are those of `plan`. The same
    arrays in the same order give the same result to the last bit.

    Args:
        tasks: in the order they are to be told in; each with a candidate.
        look: from 1 to `rule.looks`; None for the last.

    Raises ValueError, naming the task, for measurements that cannot be compared, a task without a
    candidate, and a look that the rule does not have.
    """
    rule = rule or GateRule()
    look = rule.looks if look is None else look
    if not 1 <= look <= rule.looks:
        raise ValueError(f"look {look}: the rule has {rule.looks}")
    looked_at = [checked(task) for task in tasks]
    arrays = [_arrays(task, share, rule) for task, share in zip_shares(looked_at)]
    with np.errstate(invalid="ignore"):  # NaN of an invalid task, which is never held
        judged = judge_arrays(arrays, look)
        results = tuple(
            _task_result(task, each, judged, index)
            for index, (task, each) in enumerate(zip(looked_at, arrays, strict=True))
        )
    verdict: Verdict = "promoted" if judged.promoted[0] else "inconclusive"
    invalid = any(result.outcome == "invalid" for result in results)
    lost = any(result.outcome == "regressed" for result in results)
    if judged.fell_back[0] or invalid or lost:
        verdict = "fell_back"
    chance = float(judged.chance[0])
    return GateResult(
        verdict=verdict,
        primary=_primary_result(judged, rule),
        tasks=results,
        retention=_retention_results(looked_at, judged),
        level=judged.level,
        look=look,
        looks=rule.looks,
        chance=chance if np.isfinite(chance) else None,
    )


def _arrays(task: CheckedTask, share: float, rule: GateRule) -> TaskArrays:
    """The documents that have been evaluated, with a unit and a margin from all of them."""
    if task.candidate is None:
        raise ValueError(f"task '{task.measurement.name}': there is no candidate")
    whole, plan = planned_task(task, share, rule)
    margin = margin_of(task, rule, plan)
    return part_of(replace(whole, candidate=task.candidate, margin=margin), task.evaluated)


def _task_result(task: CheckedTask, arrays: TaskArrays, judged: Judged, index: int) -> TaskResult:
    own, sampling, guard = task.measurement, arrays.sampling, judged.guards[index]
    blame, unit = float(judged.blame[0, index]), float(arrays.unit[0])
    low, high = (float(limit[0]) for limit in limits(arrays, judged.level))
    change = float(arrays.spread.mean[0])
    non_finite = int((~np.isfinite(arrays.candidate)).sum())
    outcome: Outcome = "held" if guard.held[0] else "unclear"
    if blame <= judged.level:
        outcome = "regressed"
    unclipped = float(sampling.mean(arrays.candidate - arrays.baseline)[0])
    if own.must_hold and unclipped < 0:
        outcome = "regressed"
    if non_finite:
        outcome = "invalid"
    is_binary = own.kind == "binary"
    gained, lost = int((arrays.change > 0).sum()), int((arrays.change < 0).sum())
    return TaskResult(
        name=own.name,
        kind=own.kind,
        outcome=outcome,
        baseline=task.sign * float(sampling.mean(arrays.baseline)[0]),
        candidate=task.sign * float(sampling.mean(arrays.candidate)[0]),
        change=change,
        low=low,
        high=high,
        unclipped_change=unclipped,
        unit=unit,
        change_units=change / unit,
        low_units=low / unit,
        high_units=high / unit,
        margin=float(arrays.margin[0]),
        share=arrays.share,
        documents=sampling.documents,
        groups=sampling.group_count,
        effective_groups=sampling.effective_groups,
        gained=gained if is_binary else None,
        lost=lost if is_binary else None,
        blame_p=blame,
        non_finite=non_finite,
        left_out=task.left_out,
        worst=_worst(task, arrays),
    )


def _worst(task: CheckedTask, arrays: TaskArrays) -> tuple[WorstDocument, ...]:
    """The documents that cost most, NaN first."""
    changes = (arrays.candidate - arrays.baseline)[0]
    costs = np.where(np.isnan(changes), -np.inf, changes) * arrays.sampling.weights
    order = np.argsort(costs, kind="stable")[:WORST]
    places = task.places[task.evaluated]
    return tuple(
        WorstDocument(int(places[i]), float(changes[i]), float(arrays.sampling.weights[i]))
        for i in order
        if costs[i] < 0
    )


def _retention_results(tasks: Sequence[CheckedTask], judged: Judged) -> tuple[RetentionResult, ...]:
    results = []
    for index, task in enumerate(tasks):
        found = zip(
            task.experts, judged.retentions[index], judged.retention_blame[index], strict=True
        )
        for expert, each, blame in found:
            outcome: Kept = "unclear"
            if not each.is_certain[0]:
                outcome = "no_certain_gain"
            elif blame[0] <= judged.level:
                outcome = "below"
            elif each.low[0] >= 0:
                outcome = "kept"
            results.append(
                RetentionResult(
                    task=task.measurement.name,
                    expert=expert,
                    expert_gain=float(each.gain[0]),
                    kept=float(each.kept[0]),
                    low=float(each.low[0]),
                    high=float(each.high[0]),
                    blame_p=float(blame[0]),
                    outcome=outcome,
                )
            )
    return tuple(results)


def _primary_result(judged: Judged, rule: GateRule) -> PrimaryResult:
    overall = judged.primary
    low, high = float(overall.low[0]), float(overall.high[0])
    if low > rule.exceed:
        return PrimaryResult(float(overall.estimate[0]), low, high, rule.exceed, "gained")
    below = bool(judged.certainly_below[0])
    return PrimaryResult(
        float(overall.estimate[0]), low, high, rule.exceed, "below" if below else "unclear"
    )
