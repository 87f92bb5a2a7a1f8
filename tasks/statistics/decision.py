"""The verdict over all tasks at one look, as arrays: an intersection-union test (Berger 1982)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tasks.statistics.changes import TaskArrays
from tasks.statistics.guards import Guard, guard
from tasks.statistics.holm import holm
from tasks.statistics.looks import conditional_power, final_bound, levels_of_looks
from tasks.statistics.primary import Primary, primary
from tasks.statistics.retention import Retention, retention
from tasks.statistics.rule import Bools, Floats


class Judged(NamedTuple):
    """What the documents say, [...] each, or a tuple of such over the tasks."""

    level: float
    """One-sided level of every interval at this look."""
    primary: Primary
    guards: tuple[Guard, ...]
    blame: Floats
    """[..., tasks]: p of having lost more than the margin, corrected by Holm."""
    retentions: tuple[tuple[Retention, ...], ...]
    """For each task, for each expert."""
    retention_blame: tuple[tuple[Floats, ...], ...]
    """p of having kept less than the share, corrected by Holm over experts and tasks."""
    certainly_below: Bools
    """The whole interval of the primary endpoint is at or below `exceed`."""
    chance: Floats
    """Conditional power of the least likely condition of a promotion; NaN at the last look."""
    promoted: Bools
    """The primary endpoint and all guards clear, and nothing is to blame."""
    fell_back: Bools
    """Something is certainly too bad, or there is hardly a chance left."""


def judge_arrays(tasks: Sequence[TaskArrays], look: int = 1) -> Judged:
    """Judge candidates at one look. Neither promoted nor fallen back is inconclusive.

    Args:
        tasks: with one rule, and with leading axes in common.
        look: from 1 to `rule.looks`, the last.
    """
    rule = tasks[0].rule
    level = levels_of_looks(rule.looks, rule.alpha)[look - 1]
    overall = primary(tasks, level)
    guards = tuple(guard(task, level) for task in tasks)
    blame = holm(np.stack([each.p_below for each in guards], axis=-1))
    held = np.logical_and.reduce([each.held for each in guards])
    retentions = tuple(
        tuple(retention(task, expert, level) for expert in task.experts) for task in tasks
    )
    retention_blame = _blame(retentions)
    kept_too_little = np.zeros_like(held)
    if rule.retention_blocks:
        for each in retention_blame:
            for p in each:
                kept_too_little = kept_too_little | (p <= level)
    chance = _chance(tasks, overall, look)
    certainly_below = (overall.high <= rule.exceed) & (overall.estimate < rule.exceed)
    refused = np.any(blame <= level, axis=-1) | certainly_below | kept_too_little
    promoted = held & (overall.low > rule.exceed) & ~refused
    return Judged(
        level,
        overall,
        guards,
        blame,
        retentions,
        retention_blame,
        certainly_below,
        chance,
        promoted,
        refused | (~promoted & (chance < rule.futility)),
    )


def _chance(tasks: Sequence[TaskArrays], overall: Primary, look: int) -> Floats:
    rule = tasks[0].rule
    if look >= rule.looks:
        return np.full_like(overall.estimate, np.nan)
    bound = final_bound(rule.looks, rule.alpha)
    information = sum(task.share * task.information for task in tasks)
    chances = [conditional_power(overall.trend, information, bound)]
    for task in tasks:
        if task.information < 1.0:
            chances.append(conditional_power(task.trend, task.information, bound))
    return np.asarray(np.minimum.reduce(chances))


def _blame(retentions: Sequence[Sequence[Retention]]) -> tuple[tuple[Floats, ...], ...]:
    flat = [each.p_below for own in retentions for each in own]
    if not flat:
        return tuple(() for _ in retentions)
    corrected = iter(np.moveaxis(holm(np.stack(flat, axis=-1)), -1, 0))
    return tuple(tuple(next(corrected) for _ in own) for own in retentions)
