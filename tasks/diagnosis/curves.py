"""What evaluations say along a path through the weights: changes, the loss barrier, the basin.

Everything is paired, document by document, and its intervals are those of the gate. Changes are in
units, as everywhere in the gate: how far the base's own documents lie apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from merge_core.errors import StepError
from merge_core.records import Record
from tasks.promotion.measured import measurements
from tasks.records import EvaluationReport, TaskScore
from tasks.statistics import judge
from tasks.statistics.results import PrimaryResult, TaskResult


class CurveTask(Record):
    """A task of the suite."""

    name: str
    metric: str
    higher_is_better: bool


class Point(Record):
    """One merge on a path."""

    at: float
    """Scale of the task vector, or place between the first model (0) and the second (1)."""
    change: float | None = None
    """The mean change over the tasks against the base, in units; positive is better."""
    low: float | None = None
    high: float | None = None
    scores: dict[str, float] = Field(default_factory=dict)
    """By task, in its metric."""
    below_best: bool = False
    """Whether it certainly is worse than the best point of the path."""
    why: str = ""
    """Why there is no number."""


class Barrier(Record):
    """The highest loss on a path above the straight line between the losses at 0 and 1 (Frankle et
    al. 2020, arXiv:1912.05671; measured against the line as in Entezari et al. 2022,
    arXiv:2110.06296). In units; above 0 the merge is worse than its ends would have it."""

    at: float
    height: float
    low: float
    high: float


class Curve(Record):
    """What was found on one path."""

    models: tuple[int, ...]
    """One: along its task vector. Two: from the first to the second."""
    points: tuple[Point, ...]
    barrier: Barrier | None = None
    """None where an end of it has no number."""

    @property
    def best(self) -> Point | None:
        """The point with the largest change."""
        known = [point for point in self.points if point.change is not None]
        return max(known, key=lambda point: point.change or 0.0, default=None)


class Curves(Record):
    """All paths that were evaluated."""

    suite: str
    documents: int
    tasks: tuple[CurveTask, ...]
    curves: tuple[Curve, ...]
    pairs_left_out: int = 0
    evaluated: int = 0
    """Merges that were evaluated now."""
    known: int = 0
    """Merges whose evaluations were found."""

    @property
    def scales(self) -> tuple[Curve, ...]:
        """Those along a task vector."""
        return tuple(curve for curve in self.curves if len(curve.models) == 1)

    @property
    def lines(self) -> tuple[Curve, ...]:
        """Those between two models."""
        return tuple(curve for curve in self.curves if len(curve.models) == 2)


Found = EvaluationReport | str
"""An evaluation, or why there is none."""


def curve_of(
    models: tuple[int, ...], found: Sequence[tuple[float, Found]], base: EvaluationReport
) -> Curve:
    """A path, of what was found at each of its places.

    Args:
        base: what all changes are against, and whose spread is the unit.
    """
    points = [_point(at, each, base) for at, each in found]
    reports = {at: each for at, each in found if not isinstance(each, str)}
    curve = Curve(models=models, points=tuple(points), barrier=_barrier(reports, base))
    best = curve.best
    if best is None:
        return curve
    marked = [
        point.model_copy(update={"below_best": True})
        if point.change is not None
        and point.at != best.at
        and (gap := change_from(reports[point.at], reports[best.at], base)) is not None
        and gap.high < 0.0
        else point
        for point in points
    ]
    return curve.model_copy(update={"points": tuple(marked)})


def change_from(
    report: EvaluationReport, other: EvaluationReport, base: EvaluationReport
) -> PrimaryResult | None:
    """The paired change from another evaluation to this one, in units of the base; None where they
    cannot be compared: most documents of a broken model have no finite value."""
    try:
        units = {task.name: task.unit for task in _judged(base, base)}
        tasks = measurements(report, other, [], nan_as_worst=True)
        return judge([replace(task, unit=units[task.name]) for task in tasks]).primary
    except (ValueError, StepError):
        return None


def chord(first: EvaluationReport, last: EvaluationReport, at: float) -> EvaluationReport:
    """An evaluation with each document's value on the straight line between two others."""
    scores = [_mixed(score, last.score(score.task), at) for score in first.scores]
    return first.model_copy(update={"scores": tuple(scores)})


def tasks_of(report: EvaluationReport) -> tuple[CurveTask, ...]:
    """The tasks of an evaluation."""
    return tuple(
        CurveTask(name=score.task, metric=score.metric, higher_is_better=score.higher_is_better)
        for score in report.scores
    )


def _judged(report: EvaluationReport, base: EvaluationReport) -> Sequence[TaskResult]:
    return judge(measurements(report, base, [], nan_as_worst=True)).tasks


def _point(at: float, found: Found, base: EvaluationReport) -> Point:
    if isinstance(found, str):
        return Point(at=at, why=found)
    change = change_from(found, base, base)
    scores = {score.task: score.score for score in found.scores}
    if change is None:
        return Point(at=at, scores=scores, why="too few documents have a finite value")
    return Point(at=at, change=change.change, low=change.low, high=change.high, scores=scores)


def _barrier(reports: dict[float, EvaluationReport], base: EvaluationReport) -> Barrier | None:
    first, last = reports.get(0.0), reports.get(1.0)
    if first is None or last is None or not _alike(first, last):
        return None
    heights = []
    for at, report in reports.items():
        if 0.0 < at < 1.0 and (gap := change_from(report, chord(first, last, at), base)):
            # Zero less what was measured, so that no height is -0.
            heights.append(
                Barrier(at=at, height=0.0 - gap.change, low=0.0 - gap.high, high=0.0 - gap.low)
            )
    return max(heights, key=lambda each: each.height, default=None)


def _mixed(first: TaskScore, last: TaskScore, at: float) -> TaskScore:
    values = tuple(
        (1.0 - at) * one + at * other for one, other in zip(first.values, last.values, strict=True)
    )
    missing = sorted({*(first.not_finite_at or ()), *(last.not_finite_at or ())})
    return first.model_copy(
        update={
            "values": values,
            "not_finite_at": tuple(missing) or None,
            "non_finite": len(missing),
        }
    )


def _alike(first: EvaluationReport, last: EvaluationReport) -> bool:
    """Whether two evaluations are of the same documents in the same order."""
    return [(s.task, s.doc_ids, s.weights) for s in first.scores] == [
        (s.task, s.doc_ids, s.weights) for s in last.scores
    ]
