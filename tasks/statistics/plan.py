"""Planning in plain values: the margins, what will be visible, how many documents would do."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tasks.statistics.changes import TaskArrays
from tasks.statistics.measurements import CheckedTask, TaskMeasurement, checked
from tasks.statistics.planning import Planned, planned, times_as_many, visible_change
from tasks.statistics.results import PlanResult, TaskPlan
from tasks.statistics.rule import Floats, GateRule
from tasks.statistics.units import unit_of


def plan(tasks: Sequence[TaskMeasurement], rule: GateRule | None = None) -> PlanResult:
    """What tasks can show, from their baseline's and experts' values alone.

    Raises ValueError for measurements that cannot be compared.
    """
    rule = rule or GateRule()
    looked_at = [checked(task) for task in tasks]
    plans = [planned_task(task, share, rule) for task, share in zip_shares(looked_at)]
    known = [each for _, each in plans if each is not None]
    return PlanResult(
        tuple(
            _plain(task, arrays, each)
            for task, (arrays, each) in zip(looked_at, plans, strict=True)
        ),
        float(visible_change(known)[0]) if len(known) == len(plans) else None,
    )


def planned_task(
    task: CheckedTask, share: float, rule: GateRule
) -> tuple[TaskArrays, Planned | None]:
    """A task's arrays with its unit and margin, all documents in them, and its plan."""
    own = task.measurement
    unit = (
        np.asarray([own.unit], dtype=np.float64)
        if own.unit
        else unit_of(task.baseline, task.sampling, own.kind, rule)
    )
    arrays = TaskArrays(
        kind=own.kind,
        sampling=task.sampling,
        baseline=task.baseline,
        candidate=task.baseline,
        unit=unit,
        margin=np.full(1, own.margin or rule.margin),
        share=share,
        rule=rule,
        experts=tuple(task.experts.values()),
        origin=task.origin,
    )
    return arrays, planned(arrays)


def margin_of(task: CheckedTask, rule: GateRule, each: Planned | None) -> Floats:
    """[1]: the task's own margin, else the planned one, else the rule's; in units."""
    if task.measurement.margin is not None:
        return np.full(1, task.measurement.margin)
    return np.full(1, rule.margin) if each is None else each.margin


def zip_shares(tasks: Sequence[CheckedTask]) -> list[tuple[CheckedTask, float]]:
    """Each task with its share of the weighted mean; shares sum to 1.

    Raises ValueError without tasks, for a name that is there twice, and when all shares are 0.
    """
    names = [task.measurement.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"task '{name}' is there twice")
    total = math.fsum(task.measurement.share for task in tasks)
    if not total > 0:
        raise ValueError("no task has a share of the weighted mean")
    return [(task, task.measurement.share / total) for task in tasks]


def _plain(task: CheckedTask, arrays: TaskArrays, each: Planned | None) -> TaskPlan:
    rule = arrays.rule
    margin = float(margin_of(task, rule, each)[0])
    reach = needed = None
    if each is not None:
        reach = float(each.reach()[0])
        asked = task.measurement.margin or rule.margin
        times = times_as_many(lambda scale: float(each.reach(scale)[0]), asked)
        needed = None if times is None else math.ceil(times * task.sampling.documents)
    return TaskPlan(
        name=task.measurement.name,
        documents=task.sampling.documents,
        effective_groups=task.sampling.effective_groups,
        unit=float(arrays.unit[0]),
        margin=margin,
        reach=reach,
        is_met=arrays.is_large_enough and (reach is None or reach <= margin + 1e-12),
        documents_needed=needed,
    )
