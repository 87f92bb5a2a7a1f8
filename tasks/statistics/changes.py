"""One task of a comparison, as arrays: what every test of the gate starts from.

All arrays share their leading axes, so the code that judges one candidate judges the thousands of a
simulation as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tasks.statistics.linearised import Spread, design_effect, spread_of
from tasks.statistics.ratios import ratio
from tasks.statistics.rule import Floats, GateRule, Kind
from tasks.statistics.sampling import Sampling


@dataclass(frozen=True, eq=False)
class TaskArrays:
    """A task's paired values. Higher is better: values of other metrics come negated."""

    kind: Kind
    sampling: Sampling
    baseline: Floats
    """[..., documents]"""
    candidate: Floats
    """[..., documents]"""
    unit: Floats
    """[...], above 0, in the values' own unit."""
    margin: Floats
    """[...], above 0, in units."""
    share: float
    """Of the weighted mean; shares of all tasks sum to 1. 0: a guard only."""
    rule: GateRule
    information: float = 1.0
    """Share of the task's documents that have been evaluated."""
    experts: Sequence[Floats] = ()
    """[..., documents] each."""
    origin: Floats | None = None
    """[..., documents] of what the experts were made from; None: the baseline."""

    @cached_property
    def bound(self) -> Floats:
        """[...]: the largest change that one document can count for, in the values' own unit."""
        if self.kind == "score":
            return np.asarray(self.rule.clip * self.unit)
        return np.ones_like(self.unit)

    @cached_property
    def change(self) -> Floats:
        """[..., documents]: positive is better; of unbounded metrics clipped at `bound`."""
        change = self.candidate - self.baseline
        if self.kind != "score":
            return change
        bound = self.bound[..., None]
        return np.clip(change, -bound, bound)

    @cached_property
    def spread(self) -> Spread:
        """The mean change and its variances."""
        return spread_of(self.change, self.sampling)

    @cached_property
    def discordant(self) -> Floats:
        """[...]: how many groups contain a document that changed.

        Unequal groups count by their part in the effective number of groups. Ten changed documents
        that each are a group say nothing of how alike the documents of a large group are.
        """
        changed = np.asarray(self.change != 0, dtype=np.float64)
        if self.sampling.groups is None:
            return np.asarray(changed.sum(axis=-1))
        squares = self.sampling.group_weights**2
        counts = squares * (self.sampling.effective_groups / squares.sum())
        return np.asarray((self.sampling.groups.sums(changed) > 0) @ counts)

    @cached_property
    def effect(self) -> Floats:
        """[...]: the design effect of the groups."""
        return design_effect(self.spread, self.discordant, self.sampling, self.rule)

    @cached_property
    def variance(self) -> Floats:
        """[...] of the mean change, by document with the design effect, or by group if larger."""
        return np.maximum(self.spread.by_document * self.effect, self.spread.by_group)

    @cached_property
    def trend(self) -> Floats:
        """[...]: how many standard errors the mean change so far is above minus the margin.

        It foresees what more documents will say, so it has none of an interval's caution. Infinite
        where nothing changed.
        """
        return ratio(self.spread.mean + self.margin * self.unit, np.sqrt(self.variance))

    @cached_property
    def needs_pseudo_group(self) -> bool:
        """Whether groups have more than `large_groups` documents on average, or are so unequal that
        they count as fewer than half of their number."""
        sampling = self.sampling
        if sampling.groups is None:
            return False
        unequal = 2.0 * sampling.effective_groups < sampling.group_count
        return unequal or sampling.mean_group_size > self.rule.large_groups + 1e-9

    @cached_property
    def is_large_enough(self) -> bool:
        """Whether there are enough documents and groups to say anything certain."""
        few = self.sampling.documents < self.rule.min_documents
        return not few and self.sampling.effective_groups >= self.rule.min_groups - 1e-9


def part_of(task: TaskArrays, seen: NDArray[np.bool_]) -> TaskArrays:
    """The documents of a task that were seen ([documents] of bool), with the whole task's unit and
    margin."""
    if seen.all():
        return task
    part = task.sampling.part(seen)
    return replace(
        task,
        sampling=part,
        baseline=task.baseline[..., seen],
        candidate=task.candidate[..., seen],
        experts=tuple(each[..., seen] for each in task.experts),
        origin=None if task.origin is None else task.origin[..., seen],
        information=part.documents / task.sampling.documents,
    )
