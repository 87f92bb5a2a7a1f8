"""Candidates race the best so far on one order of documents, and stop when they have lost.

The order is fixed before the first candidate: from the values of the base and the experts, groups
of documents are ranked by how much these models differ on them, and every rung takes evenly from
the whole ranking. So a small rung holds telling and ordinary documents in their true proportion,
and what it says of a difference is not biased.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from merge_core.files.digests import digest_of
from tasks.promotion.measured import measurements
from tasks.records import EvaluationReport, TaskScore
from tasks.search.trial import Result, Trial
from tasks.statistics import GateResult, judge
from tasks.statistics.measurements import FEW_NON_FINITE
from tasks.statistics.results import PrimaryResult

_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
_FEWEST_DOCUMENTS, _FEWEST_GROUPS = 20, 10
"""On a rung of a task: below, the gate's statistics say nothing."""


def judged(report: EvaluationReport, base: EvaluationReport) -> GateResult:
    """A candidate against the base, by the gate's own code; as far as it was evaluated."""
    return judge(measurements(report, base, [], nan_as_worst=True))


def units_of(base: EvaluationReport) -> dict[str, float]:
    """How far the base's own documents lie apart, by task."""
    return {task.name: task.unit for task in judged(base, base).tasks}


def change_against(
    candidate: EvaluationReport,
    incumbent: EvaluationReport,
    base: EvaluationReport,
    units: Mapping[str, float] | None = None,
) -> PrimaryResult:
    """The paired change from the incumbent to a candidate, in units of the base.

    Args:
        units: of the base, by task, where they are known.
    """
    units = units or units_of(base)
    tasks = measurements(candidate, incumbent, [], nan_as_worst=True)
    return judge([replace(task, unit=units[task.name]) for task in tasks]).primary


def result_of(
    report: EvaluationReport,
    base: EvaluationReport,
    beside: tuple[Trial, EvaluationReport] | None,
) -> Result:
    """What came of a candidate, without its recipe and what it took.

    Args:
        report: part of an evaluation, if the candidate lost.
        beside: the best trial so far, for one that lost: its number is that of the best, and the
            paired difference on the documents that both have seen.
    """
    whole, found = not report.looks, judged(report, base)
    objective = found.primary.change
    if not whole and beside:
        first, incumbent = beside
        difference = change_against(report, incumbent, base).change
        objective = (first.result.objective or 0.0) + difference
    return Result(
        outcome="whole" if whole else "lost",
        recipe="",
        objective=objective,
        low=found.primary.low if whole else None,
        high=found.primary.high if whole else None,
        tasks={task.name: task.change_units for task in found.tasks if task.share > 0},
        documents=_documents(report),
        of_documents=_documents(base),
    )


def _documents(report: EvaluationReport) -> int:
    return sum(len(score.doc_ids) for score in report.scores)


def can_be_raced(report: EvaluationReport) -> bool:
    """Whether others can be compared with it: a broken model has too few finite scores."""
    return all(
        (score.non_finite or 0) <= FEW_NON_FINITE * len(score.doc_ids) for score in report.scores
    )


@dataclass(frozen=True)
class Race:
    """How a candidate is looked at: beside which incumbent, after which documents."""

    base: EvaluationReport
    incumbent: EvaluationReport
    rungs: tuple[tuple[int, ...], ...]
    """For each task the rung of each document, from 1."""

    @property
    def number(self) -> int:
        """How many rungs there are."""
        return max(max(rungs) for rungs in self.rungs)

    @cached_property
    def by(self) -> str:
        """Digest of all that decides when to stop."""
        compared = (self.base.checkpoint_digest, self.incumbent.checkpoint_digest)
        return digest_of(["race-1", *compared, self.rungs])

    def of_documents(self) -> list[list[int]]:
        """For each task of the suite the rung of each document."""
        return [list(rungs) for rungs in self.rungs]

    def goes_on(self, report: EvaluationReport) -> bool:
        """Whether the candidate may still be better than the incumbent."""
        return change_against(report, self.incumbent, self.base, self._units).high >= 0.0

    @cached_property
    def _units(self) -> Mapping[str, float]:
        return units_of(self.base)


def rungs_of(
    base: EvaluationReport, experts: Sequence[EvaluationReport]
) -> tuple[tuple[int, ...], ...] | None:
    """The rungs of a suite; None where its documents are too few for more than one."""
    found = [
        _seen(score, [expert.score(score.task) for expert in experts]) for score in base.scores
    ]
    shares = [
        share
        for share in _SHARES
        if all(
            share * len(score.doc_ids) >= _FEWEST_DOCUMENTS
            and share * len(set(score.clusters or score.doc_ids)) >= _FEWEST_GROUPS
            for score in base.scores
        )
    ]
    if not shares:
        return None
    return tuple(
        tuple(int(r) for r in 1 + np.searchsorted(shares, seen, "right")) for seen in found
    )


def _seen(base: TaskScore, experts: Sequence[TaskScore]) -> NDArray[np.float64]:
    """For each document the share of the task that comes before it, from 0 to 1."""
    groups = list(base.clusters or base.doc_ids)
    names = sorted(set(groups))
    index = np.searchsorted(names, groups)
    columns = np.array([_values_like(base, each) for each in (base, *experts)])
    spread = np.bincount(index, columns.std(axis=0)) / np.bincount(index)
    ranked = np.argsort(-spread, kind="stable")
    halvings = np.array([_radical_inverse(place) for place in range(len(names))])
    order = ranked[np.argsort(halvings, kind="stable")]
    sizes = np.bincount(index).astype(np.float64)
    seen = np.empty(len(names))
    seen[order] = (np.cumsum(sizes[order]) - sizes[order] / 2.0) / sizes.sum()
    return np.asarray(seen[index])


def _values_like(base: TaskScore, other: TaskScore) -> list[float]:
    """Values for each document in the base's order."""
    known = dict(zip(other.doc_ids, zip(other.values, other.weights, strict=True), strict=True))
    pairs = (known.get(document, (0.0, 1.0)) for document in base.doc_ids)
    return [value / (weight or 1.0) for value, weight in pairs]


def _radical_inverse(number: int) -> float:
    """0, 1/2, 1/4, 3/4, 1/8 ...: each beginning is spread evenly (van der Corput)."""
    found, part = 0.0, 0.5
    while number:
        found += part * (number & 1)
        number, part = number >> 1, part / 2.0
    return found
