"""The primary endpoint: is the weighted mean change over the tasks certainly above `exceed`?

Changes are in units, so that metrics can be added. 0/1 metrics enter with the larger variance, by
document or by group, and Student's t with Satterthwaite's (1946) degrees of freedom. Metrics whose
guard is not symmetrical enter through MOVER, which squares and adds the distances to each task's
own limits (Zou & Donner 2008). So do all metrics where a loss is to be proved small: nothing
flipped would be a variance of 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tasks.statistics.changes import TaskArrays
from tasks.statistics.guards import limits
from tasks.statistics.levels import student_quantile
from tasks.statistics.ratios import ratio
from tasks.statistics.rule import Floats


class Primary(NamedTuple):
    """The weighted mean change in units, [...] each."""

    estimate: Floats
    low: Floats
    high: Floats
    above: Floats
    """Standard errors above `exceed`."""
    degrees: Floats
    """Satterthwaite's degrees of freedom; infinite where no variance entered through them."""


def primary(tasks: Sequence[TaskArrays], level: float) -> Primary:
    """Combine the tasks that have a share; the interval has `level` on either side.

    Raises ValueError when no task has a share.
    """
    counted = [task for task in tasks if task.share > 0]
    if not counted:
        raise ValueError("no task has a share of the weighted mean")
    exceed = counted[0].rule.exceed
    estimate = sum_of([task.share * task.spread.mean / task.unit for task in counted])
    linear = [task for task in counted if task.kind == "binary" and exceed >= 0.0]
    variance, degrees = _satterthwaite(linear, estimate)
    quantile = student_quantile(level, degrees)
    below = above = quantile**2 * variance
    for task in counted:
        if task in linear:
            continue
        low, high = limits(task, level)
        below = below + (task.share * (task.spread.mean - low) / task.unit) ** 2
        above = above + (task.share * (high - task.spread.mean) / task.unit) ** 2
    distance = np.sqrt(below)
    statistic = ratio(estimate - exceed, distance / quantile)
    return Primary(estimate, estimate - distance, estimate + np.sqrt(above), statistic, degrees)


def sum_of(parts: Sequence[Floats]) -> Floats:
    """The sum in the order of the parts, so that it is the same on any machine."""
    total = np.zeros_like(parts[0])
    for part in parts:
        total = total + part
    return total


def _satterthwaite(tasks: Sequence[TaskArrays], like: Floats) -> tuple[Floats, Floats]:
    """The variance of the tasks' part of the mean, and its degrees of freedom."""
    variance, spent = np.zeros_like(like), np.zeros_like(like)
    for task in tasks:
        own = (task.share / task.unit) ** 2 * task.spread.larger
        variance = variance + own
        spent = spent + own**2 / task.sampling.degrees
    some = spent > 0
    degrees = np.where(some, variance**2 / np.where(some, spent, 1.0), np.inf)
    return variance, degrees
