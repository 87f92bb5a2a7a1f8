"""From stored evaluations to what the statistics take: arrays in one order of documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.promotion.comparable import matching_order
from tasks.records import LIKELIHOOD_METRICS, WORST_BITS, TaskScore
from tasks.statistics import TaskMeasurement
from tasks.statistics.rule import Floats, Kind


class UnlikeDocumentsError(ValueError):
    """Evaluations that are not of the same documents, or weigh them differently."""


@dataclass(frozen=True)
class _Documents:
    """One evaluation of one task, in the order that pairs documents."""

    ids: tuple[str, ...]
    values: Floats
    """Each document's own score; that of one that weighs nothing is 0."""
    weights: Floats
    is_finite: np.ndarray[tuple[int], np.dtype[np.bool_]]
    clusters: tuple[str, ...] | None

    @classmethod
    def of(cls, score: TaskScore) -> _Documents:
        order = matching_order(score)
        totals = np.array([score.values[i] for i in order], dtype=np.float64)
        weights = np.array([score.weights[i] for i in order], dtype=np.float64)
        values = np.divide(totals, weights, out=np.zeros_like(totals), where=weights > 0)
        missing = set(not_finite(score))
        clusters = score.clusters
        return cls(
            ids=tuple(score.doc_ids[i] for i in order),
            values=values,
            weights=weights,
            is_finite=np.array([i not in missing for i in order], dtype=bool),
            clusters=clusters and tuple(clusters[i] for i in order),
        )

    def among(self, whole: _Documents) -> tuple[_Documents, NDArray[np.bool_]]:
        """These documents at their places in a whole evaluation, whose own stand for the others;
        and which are these.

        Raises:
            UnlikeDocumentsError: one of them is not in it.
        """
        places, at = [], 0
        for identity in self.ids:  # both are in the order of their ids
            while at < len(whole.ids) and whole.ids[at] < identity:
                at += 1
            if at == len(whole.ids) or whole.ids[at] != identity:
                raise UnlikeDocumentsError("are not of the same documents")
            places.append(at)
            at += 1
        values, weights = whole.values.copy(), whole.weights.copy()
        is_finite = whole.is_finite.copy()
        values[places], weights[places] = self.values, self.weights
        is_finite[places] = self.is_finite
        evaluated = np.zeros(len(whole.ids), dtype=bool)
        evaluated[places] = True
        return _Documents(whole.ids, values, weights, is_finite, whole.clusters), evaluated


def measurement(
    candidate: TaskScore,
    baseline: TaskScore,
    experts: Mapping[str, TaskScore],
    origin: TaskScore | None = None,
    *,
    nan_as_worst: bool = False,
    is_part: bool = False,
) -> TaskMeasurement:
    """One task as the gate measures it: documents of all evaluations in the order of their ids.

    Args:
        origin: of what the experts were made from; None: the baseline.
        nan_as_worst: let a document without a finite score of the candidate's count as the worst
            there is, for numbers to show. What decides is NaN.
        is_part: the candidate was evaluated on some of the documents.

    Raises:
        UnlikeDocumentsError: the evaluations are not of the same documents.
    """
    before, now = _Documents.of(baseline), _Documents.of(candidate)
    evaluated = None
    if is_part:
        now, evaluated = now.among(before)
    others = {name: _Documents.of(score) for name, score in experts.items()}
    first = _Documents.of(origin) if origin else None
    more = [(origin, first)] if origin and first else []
    for score, each in (
        (candidate, now),
        *zip(experts.values(), others.values(), strict=True),
        *more,
    ):
        if not before.ids or each.ids != before.ids or score.scale != baseline.scale:
            raise UnlikeDocumentsError("are not of the same documents")
        if not np.array_equal(each.weights, before.weights):
            raise UnlikeDocumentsError("do not weigh the same documents alike")
    is_finite = np.ones_like(now.is_finite) if nan_as_worst else now.is_finite
    columns = {
        "baseline": np.where(before.is_finite, before.values, np.nan),
        "candidate": np.where(is_finite, now.values, np.nan),
    }
    theirs = {n: np.where(each.is_finite, each.values, np.nan) for n, each in others.items()}
    strata = [identity.rpartition(":")[0] for identity in before.ids]
    return TaskMeasurement(
        name=candidate.task,
        kind=_kind(candidate.metric, [*columns.values(), *theirs.values()], before.weights),
        baseline=columns["baseline"],
        candidate=columns["candidate"],
        experts=theirs,
        higher_is_better=candidate.higher_is_better,
        weights=before.weights,
        clusters=before.clusters or now.clusters,
        strata=strata if len(set(strata)) > 1 else None,
        share=1.0 if candidate.task_weight is None else candidate.task_weight,
        origin=np.where(first.is_finite, first.values, np.nan) if first else None,
        evaluated=evaluated,
    )


def not_finite(score: TaskScore) -> Sequence[int]:
    """Places of the documents without a finite score.

    Records of before only count them. Such documents have the worst value there is, so as many of
    those that have it are taken.
    """
    if score.not_finite_at is not None or not score.non_finite:
        return score.not_finite_at or ()
    worst_of_likelihoods = score.metric in LIKELIHOOD_METRICS or not score.higher_is_better
    worst = [WORST_BITS * weight if worst_of_likelihoods else 0.0 for weight in score.weights]
    places = [i for i, value in enumerate(score.values) if value == worst[i]]
    return places[: score.non_finite]


def _kind(metric: str, columns: Sequence[Floats], weights: Floats) -> Kind:
    """Likelihoods are unbounded whatever their values are; of other metrics the values tell."""
    if metric in LIKELIHOOD_METRICS:
        return "score"
    values = np.concatenate(columns)
    values = values[np.isfinite(values)]
    if np.all((values == 0) | (values == 1)) and np.all(weights == weights[0]):
        return "binary"
    return "fraction" if np.all((values >= 0) & (values <= 1)) else "score"
