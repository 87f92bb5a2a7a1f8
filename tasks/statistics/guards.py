"""The guard of one task: has it certainly not lost its margin, or certainly lost more?

0/1 metrics: Tango's score statistic at the margin. With groups, counts are divided by the design
effect, and a skew-corrected t over groups has to agree. Large or very unequal groups get a
pseudo-group that was lost whole. Strata are not used here: pooled counts are the more careful.

Other metrics: Student's t of the bounded mean change. `pseudo_documents` with the worst possible
change are added to it, since a sample says nothing of rare and large losses that it does not hold.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tasks.statistics.changes import TaskArrays
from tasks.statistics.hall import corrected, skewness, uncorrected
from tasks.statistics.levels import below_probability, normal_quantile, student_quantile
from tasks.statistics.ratios import ratio
from tasks.statistics.rule import Bools, Floats
from tasks.statistics.tango import score_limits, score_statistic


class Guard(NamedTuple):
    """What a task's documents say of its margin: [...] each."""

    held: Bools
    """Certainly not worse than minus the margin."""
    p_below: Floats
    """How likely so bad a result would be, had the task lost exactly its margin."""


def guard(task: TaskArrays, level: float) -> Guard:
    """Test a task at minus its margin, at a one-sided level.

    Where the statistic is NaN, the task is not held and p is 1.
    """
    floor = -task.margin * task.unit
    if task.kind == "binary":
        statistics = _binary_statistics(task, floor)
        low, high = np.minimum.reduce(statistics), np.maximum.reduce(statistics)
    else:
        error = np.sqrt(task.variance)
        shift = floor - task.spread.mean
        low = ratio(_towards(task, -1.0, level) - shift, error)
        high = ratio(_towards(task, 1.0, level) - shift, error)
    p = below_probability(high, _degrees(task))
    held = (low >= quantile_of(task, level)) & task.is_large_enough
    return Guard(held, np.where(np.isnan(p) | (not task.is_large_enough), 1.0, p))


def limits(task: TaskArrays, level: float) -> tuple[Floats, Floats]:
    """[...] twice: the interval of the mean change in the values' own unit, `level` on either side.

    A task is held exactly if the lower limit is not below minus its margin.
    """
    quantile = np.asarray(quantile_of(task, level))
    mean = task.spread.mean
    if task.kind != "binary":
        error = quantile * np.sqrt(task.variance)
        worst, best = _towards(task, -1.0, level), _towards(task, 1.0, level)
        return mean + worst - error, mean + best + error
    gained, lost, documents = _counts(task)
    low, high = score_limits(gained, lost, documents, quantile)
    if task.sampling.groups is None:
        return low, high
    error = np.sqrt(task.spread.larger)
    skew, groups = skewness(task.spread.influence), task.sampling.group_count
    low = np.minimum(low, mean - error * uncorrected(quantile, skew, groups))
    high = np.maximum(high, mean - error * uncorrected(-quantile, skew, groups))
    if task.needs_pseudo_group:
        (worst, below), (best, above) = (_with_pseudo_group(task, sign) for sign in (-1.0, 1.0))
        low = np.minimum(low, worst - quantile * below)
        high = np.maximum(high, best + quantile * above)
    return low, high


def quantile_of(task: TaskArrays, level: float) -> float:
    """What a task's statistic has to reach to be certain at a level."""
    return float(student_quantile(level, _degrees(task)))


def _degrees(task: TaskArrays) -> float:
    """Tango's statistic of single documents is normal; all others are Student's."""
    if task.kind == "binary" and task.sampling.groups is None:
        return float("inf")
    return task.sampling.degrees


def _counts(task: TaskArrays) -> tuple[Floats, Floats, Floats]:
    """How many documents became right, became wrong, and are there, over the design effect."""
    gained = (task.change > 0).sum(axis=-1)
    lost = (task.change < 0).sum(axis=-1)
    return gained / task.effect, lost / task.effect, task.sampling.documents / task.effect


def _binary_statistics(task: TaskArrays, floor: Floats) -> list[Floats]:
    statistics = [score_statistic(*_counts(task), floor)]
    if task.sampling.groups is not None:
        t = ratio(task.spread.mean - floor, np.sqrt(task.spread.larger))
        skew = skewness(task.spread.influence)
        statistics.append(corrected(t, skew, task.sampling.group_count))
        if task.needs_pseudo_group:
            for sign in (-1.0, 1.0):
                mean, error = _with_pseudo_group(task, sign)
                statistics.append(ratio(mean - floor, error))
    return statistics


def _with_pseudo_group(task: TaskArrays, sign: float) -> tuple[Floats, Floats]:
    sampling, spread = task.sampling, task.spread
    size = sampling.mean_group_size
    return with_pseudo_group(spread.mean, spread.larger, sampling.documents, size, sign)


def with_pseudo_group(
    mean: Floats, variance: Floats, documents: float, size: float, sign: float
) -> tuple[Floats, Floats]:
    """Mean and standard error, with one more group whose documents all changed alike: [...] each.

    Where groups are large, a sample in which none was lost whole looks as if its documents moved
    alone. The pseudo-group stands for those that were not drawn.

    Args:
        mean: the mean change, [...].
        variance: of that mean, [...].
        size: documents of a group.
        sign: -1 for a group that was lost, 1 for one that was gained.
    """
    total = documents + size
    moved = size / total * (sign - mean)
    squares = (
        variance * documents**2 + documents * size * moved**2 + (size * (sign - mean - moved)) ** 2
    )
    return mean + moved, np.sqrt(squares) / total


def _towards(task: TaskArrays, sign: float, level: float) -> Floats:
    """How far the pseudo-documents move the mean: [...], in the values' own unit.

    Their number is z squared, as in Wilson's and Tango's intervals of nothing flipped, where a
    level asks for more than `pseudo_documents`. Of large groups they are pseudo-groups.
    """
    extra = max(task.rule.pseudo_documents, normal_quantile(level) ** 2)
    effect = task.sampling.mean_group_size if task.needs_pseudo_group else task.effect
    documents = task.sampling.kish / effect
    return np.asarray(extra / (documents + extra) * (sign * task.bound - task.spread.mean))
