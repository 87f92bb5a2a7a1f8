"""One number for a whole suite, by the rule's own measure: what greedy soups and rankings go by."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.promotion.former import SMALLEST_BASELINE
from tasks.promotion.measured import measurements
from tasks.records import EvaluationReport
from tasks.statistics import judge


def mean_change(report: EvaluationReport, reference: EvaluationReport) -> float:
    """The mean change over the tasks, weighted as the suite says, in units of the reference: what
    the calibrated gate calls better. An answer that is no number counts as the worst there is.

    Raises:
        StepError: the evaluations are not of the same documents.
    """
    return judge(measurements(report, reference, [], nan_as_worst=True)).primary.change


def best_of(reports: Sequence[EvaluationReport], reference: EvaluationReport) -> int:
    """The place of the best one; of equal ones the first."""
    changes = [mean_change(report, reference) for report in reports]
    return changes.index(max(changes))


def overall(report: EvaluationReport, reference: EvaluationReport) -> float:
    """The same by the former gate, higher being better.

    The mean over tasks of the score relative to the reference's size, negative where lower scores
    are better: what the promotion rule calls gain, but for a constant.
    """
    total = 0.0
    for score in sorted(report.scores, key=lambda each: each.task):
        size = max(abs(reference.score(score.task).score), SMALLEST_BASELINE)
        total += score.score / size * (1 if score.higher_is_better else -1)
    return total / len(report.scores)
