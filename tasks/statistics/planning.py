"""What a suite can see, known before the merge: from the base and the experts alone.

A merge lies between the base and its experts, so it changes about as many documents as they do. A
guard margin is widened to what an unchanged candidate with such changes is certain to hold: about
3.24 planned standard errors, 1.96 for the interval and 1.28 for a power of 90 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tasks.statistics.changes import TaskArrays
from tasks.statistics.guards import quantile_of, with_pseudo_group
from tasks.statistics.levels import normal_quantile
from tasks.statistics.looks import levels_of_looks
from tasks.statistics.primary import sum_of
from tasks.statistics.rule import Floats
from tasks.statistics.tango import score_limits

_LARGEST = 1024.0
"""Times as many documents as there are: more are not searched for."""


@dataclass(frozen=True, eq=False)
class Planned:
    """What a task's base and experts say of a change to come: [...] each."""

    task: TaskArrays
    flips: Floats
    """Share of documents that change; 0/1 metrics alone use it."""
    variance: Floats
    """Of the mean change, in the values' own unit squared, with the design effect in it."""
    effect: Floats
    """Design effect."""
    quantile: float
    """What a statistic has to reach at the last look."""

    def below(self, scale: float = 1.0) -> Floats:
        """How far an unchanged candidate's lower limit is below 0, in units.

        Args:
            scale: times as many documents as there are.
        """
        task, unit = self.task, self.task.unit
        documents = task.sampling.kish / self.effect * scale
        error = self.quantile * np.sqrt(self.variance / scale)
        if task.kind == "binary":
            half = self.flips * documents / 2.0
            low, _ = score_limits(half, half, documents, self.quantile)
            below = np.maximum(-low, error)
            if task.needs_pseudo_group:
                worst, wider = with_pseudo_group(
                    np.zeros_like(below),
                    self.variance / scale,
                    float(task.sampling.documents * scale),
                    task.sampling.mean_group_size,
                    -1.0,
                )
                below = np.maximum(below, self.quantile * wider - worst)
            return np.asarray(below / unit)
        if task.needs_pseudo_group:
            documents = np.full_like(unit, task.sampling.effective_groups * scale)
        extra = max(task.rule.pseudo_documents, self.quantile**2)
        return np.asarray((error + extra / (documents + extra) * task.bound) / unit)

    def reach(self, scale: float = 1.0) -> Floats:
        """The margin, in units, that an unchanged candidate holds with `guard_power`: [...]."""
        more = normal_quantile(1.0 - self.task.rule.guard_power)
        return np.asarray(
            self.below(scale) + more * np.sqrt(self.variance / scale) / self.task.unit
        )

    @property
    def margin(self) -> Floats:
        """The guard margin in units, [...]: the reach, within what the rule allows."""
        rule = self.task.rule
        return np.clip(self.reach(), rule.margin, rule.widest_margin)


def planned(task: TaskArrays) -> Planned | None:
    """Plan a task from its experts; None without any. The task's candidate is not looked at."""
    if not task.experts:
        return None
    rule = task.rule
    seen = [replace(task, candidate=expert, experts=()) for expert in task.experts]
    count = len(seen)
    flips = sum_of([task.sampling.mean((each.change != 0) * 1.0) for each in seen]) / count
    effect = sum_of([each.effect for each in seen]) / count
    variance = sum_of([each.variance for each in seen])
    level = levels_of_looks(rule.looks, rule.alpha)[-1]
    return Planned(task, flips, variance / count, effect, quantile_of(task, level))


def visible_change(plans: Sequence[Planned]) -> Floats:
    """The smallest weighted mean change, in units, that is promoted with `visible_power`: [...]."""
    rule = plans[0].task.rule
    errors, limits = [], []
    for each in plans:
        task = each.task
        error = task.share * np.sqrt(each.variance) / task.unit
        errors.append(error**2)
        limits.append((task.share * each.below()) ** 2)
    more = normal_quantile(1.0 - rule.visible_power)
    return np.asarray(rule.exceed + np.sqrt(sum_of(limits)) + more * np.sqrt(sum_of(errors)))


def times_as_many(reach: Callable[[float], float], wanted: float) -> float | None:
    """How many times the documents are needed for a reach of `wanted`; None: more than anybody has.

    Args:
        reach: falls as documents multiply.
    """
    low, high = 1.0 / _LARGEST, _LARGEST
    if reach(high) > wanted:
        return None
    for _ in range(24):  # to a ten-thousandth of a percent
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if reach(middle) > wanted else (low, middle)
    return high
