"""What the gate is given for each task: plain arrays, one entry a document, and their check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.statistics.rule import Floats, Kind
from tasks.statistics.sampling import Groups, Sampling

FEW_NON_FINITE = 0.01
"""Share of a task's documents for which a baseline may have no finite value."""


@dataclass(frozen=True, eq=False)
class TaskMeasurement:
    """One task, measured for several checkpoints on the same documents in the same order.

    A document's value is its own score: 0 or 1 for accuracy, bits divided by bytes for bits per
    byte. The task's score is the mean weighted with `weights`. A value that the model could not
    give is NaN.
    """

    name: str
    kind: Kind
    """`binary`: every value is 0 or 1, weights are equal. `fraction`: from 0 to 1 (an average over
    repeats). `score`: unbounded (bits per byte, a perplexity's logarithm)."""
    baseline: ArrayLike
    """[documents]"""
    candidate: ArrayLike | None = None
    """[documents]; None before the merge. Not looked at where `evaluated` is False."""
    experts: Mapping[str, ArrayLike] = field(default_factory=dict)
    """By name: [documents] each."""
    higher_is_better: bool = True
    weights: ArrayLike | None = None
    """[documents]: bytes, words. None: all alike. Documents that weigh nothing are left out."""
    clusters: ArrayLike | None = None
    """[documents] of labels: documents with equal labels were not drawn independently."""
    strata: ArrayLike | None = None
    """[documents] of labels: fixed parts of the task, like the members of an lm-eval group."""
    share: float = 1.0
    """Weight in the primary endpoint, relative to the other tasks'. 0: the task is only guarded."""
    unit: float | None = None
    """Frozen with the suite, in the metric's own unit; None: taken from the baseline here."""
    margin: float | None = None
    """In units: this task's own guard margin, never widened. None: the rule's."""
    must_hold: bool = False
    """Whether the candidate's score may not be lower than the baseline's at all, as measured."""
    origin: ArrayLike | None = None
    """[documents]: of what the experts were made from. None: the baseline."""
    evaluated: ArrayLike | None = None
    """[documents] of bool: what the candidate has been evaluated on so far. None: everything."""


@dataclass(frozen=True, eq=False)
class CheckedTask:
    """A measurement as arrays with one leading axis, higher being better."""

    measurement: TaskMeasurement
    sampling: Sampling
    baseline: Floats
    """[1, documents], without those that are left out."""
    candidate: Floats | None
    experts: dict[str, Floats]
    """Those that are finite for every document."""
    places: NDArray[np.intp]
    """[documents]: where each stands in the measurement's arrays."""
    evaluated: NDArray[np.bool_]
    left_out: int
    """Documents that weigh nothing, or for which the baseline has no finite value."""
    origin: Floats | None = None
    """[1, documents] of what the experts were made from; None: the baseline."""

    @property
    def sign(self) -> float:
        """What turns a score around where lower is better."""
        return 1.0 if self.measurement.higher_is_better else -1.0


def checked(task: TaskMeasurement) -> CheckedTask:
    """Check a measurement and leave out documents that cannot be compared.

    Raises ValueError, naming the task: arrays of unlike lengths, no document left, a baseline
    without a finite value for more than 1 % of documents, values that are not of the kind, a share,
    unit or margin outside its range.
    """
    baseline = _column(task, "baseline", task.baseline)
    count = len(baseline)
    weights = np.ones(count) if task.weights is None else _column(task, "weights", task.weights)
    columns = {"weights": weights}
    if task.candidate is not None:
        columns["candidate"] = _column(task, "candidate", task.candidate)
    if task.origin is not None:
        columns["origin"] = _column(task, "origin", task.origin)
    experts = {name: _column(task, name, each) for name, each in task.experts.items()}
    labels = {"clusters": task.clusters, "strata": task.strata, "evaluated": task.evaluated}
    given = {name: np.asarray(each) for name, each in labels.items() if each is not None}
    for name, each in {**columns, **experts, **given}.items():
        _need(task, each.shape == (count,), f"{name} has not one entry for each document")
    _need(task, bool(np.all(np.isfinite(weights) & (weights >= 0))), "a weight is below 0 or NaN")
    finite = np.isfinite(baseline)
    _need(
        task,
        bool((~finite).sum() <= FEW_NON_FINITE * count),
        "the baseline has no finite value for more than 1 % of the documents",
    )
    kept = finite & (weights > 0)
    _need(task, bool(kept.any()), "no document is left to compare")
    for name, each in {"baseline": baseline, **columns, **experts}.items():
        if name != "weights":
            _need(task, _is_of(task.kind, each[kept]), f"{name}: a value is not {task.kind}")
    alike = bool(np.all(weights[kept] == weights[kept][0]))
    _need(task, task.kind != "binary" or alike, "weights of a binary task are not equal")
    if alike:
        weights = np.ones(count)
    for name, number in {"unit": task.unit, "margin": task.margin}.items():
        _need(task, number is None or 0 < number < np.inf, f"{name} has to be above 0")
    _need(task, 0 <= task.share < np.inf, "share has to be at least 0")
    sign = 1.0 if task.higher_is_better else -1.0
    everything = np.ones(count, dtype=bool)
    evaluated = given.get("evaluated", everything).astype(bool)[kept]
    _need(task, bool(evaluated.any()), "no document has been evaluated")
    candidate, origin = columns.get("candidate"), columns.get("origin")
    if origin is not None and not np.all(np.isfinite(origin[kept])):
        origin = None
    return CheckedTask(
        measurement=task,
        sampling=Sampling(
            weights[kept],
            Groups.of(given["clusters"][kept]) if "clusters" in given else None,
            Groups.of(given["strata"][kept]) if "strata" in given else None,
        ),
        baseline=sign * baseline[None, kept],
        candidate=None if candidate is None else sign * candidate[None, kept],
        experts={
            name: sign * each[None, kept]
            for name, each in experts.items()
            if np.all(np.isfinite(each[kept]))
        },
        origin=None if origin is None else sign * origin[None, kept],
        places=np.flatnonzero(kept),
        evaluated=evaluated,
        left_out=int(count - kept.sum()),
    )


def _column(task: TaskMeasurement, name: str, values: ArrayLike) -> Floats:
    column = np.asarray(values, dtype=np.float64)
    _need(task, column.ndim == 1 and len(column) > 0, f"{name} is no list of numbers")
    return column


def _is_of(kind: Kind, values: Floats) -> bool:
    finite = values[np.isfinite(values)]
    if kind == "binary":
        return bool(np.all((finite == 0) | (finite == 1)))
    return kind == "score" or bool(np.all((finite >= 0) & (finite <= 1)))


def _need(task: TaskMeasurement, holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"task '{task.name}': {what}")
