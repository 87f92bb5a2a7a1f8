"""Paired bootstrap over documents: how far two checkpoints' scores on the same documents differ.

Both checkpoints are resampled with the same documents, so what makes a document hard for either
cancels. Percentile intervals (Efron 1979; Koehn 2004 for paired use on corpus scores).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.promotion.comparable import matching_order
from tasks.records import Scale, TaskScore

Floats = NDArray[np.float64]

_BLOCK = 1 << 21
"""Document draws held at once: about 80 MB."""


@dataclass(frozen=True)
class PairedScores:
    """Two checkpoints on one task: the same documents in one order, whatever order they came in."""

    ids: tuple[str, ...]
    candidate: Floats
    """[documents, 2]: values and weights."""
    baseline: Floats
    scale: Scale


def pair(candidate: TaskScore, baseline: TaskScore) -> PairedScores | None:
    """Pair documents by id; None when the two were not scored on the same documents."""
    ids, values = _sorted(candidate)
    other_ids, other_values = _sorted(baseline)
    if ids != other_ids or not ids or candidate.scale != baseline.scale:
        return None
    return PairedScores(ids, values, other_values, candidate.scale)


def improvement(paired: PairedScores, *, higher_is_better: bool) -> float:
    """Improvement of the candidate over all documents, in the metric's own unit."""
    totals = _columns(paired).sum(axis=0)[:, None]
    return float(_sign(higher_is_better) * _differences(totals, paired.scale)[0])


def resampled_improvements(
    paired: PairedScores, *, higher_is_better: bool, resamples: int, seed: int
) -> Floats:
    """Improvement of the candidate in each of `resamples` redrawn sets of documents.

    The draws depend on the seed and on which documents there are, not on the task or the order of
    documents: two metrics of the same documents are redrawn together, as they are correlated.
    """
    count = len(paired.ids)
    digest = hashlib.sha256("\n".join(paired.ids).encode()).digest()
    source = np.random.Generator(
        np.random.PCG64(np.random.SeedSequence([seed, int.from_bytes(digest[:16], "big")]))
    )
    columns = _columns(paired).T
    improvements = np.empty(resamples)
    block = max(1, _BLOCK // count)
    for start in range(0, resamples, block):
        drawn = source.integers(0, count, size=(min(block, resamples - start), count))
        totals = np.stack([column[drawn].sum(axis=1) for column in columns])
        improvements[start : start + len(drawn)] = _differences(totals, paired.scale)
    return _sign(higher_is_better) * improvements


def interval(values: Floats, confidence: float) -> tuple[float, float]:
    """The central share of resampled values."""
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def _sorted(score: TaskScore) -> tuple[tuple[str, ...], Floats]:
    order = matching_order(score)
    columns = [[score.values[i] for i in order], [score.weights[i] for i in order]]
    return tuple(score.doc_ids[i] for i in order), np.array(columns, dtype=np.float64).T


def _sign(higher_is_better: bool) -> float:
    return 1.0 if higher_is_better else -1.0


def _columns(paired: PairedScores) -> Floats:
    """What has to be summed over documents: [documents, 2] or, of unlike weights, [documents, 4].

    Where both checkpoints' documents weigh the same, the values are subtracted here, before any
    division. Accuracies then differ by whole documents: 59 of 100 is below 60 of 100 by 0.01 and
    by nothing less, which 0.59 - 0.6 is not.
    """
    same_weights = np.array_equal(paired.candidate[:, 1], paired.baseline[:, 1])
    if paired.scale == "ratio" and same_weights:
        difference = paired.candidate[:, 0] - paired.baseline[:, 0]
        return np.stack([difference, paired.candidate[:, 1]], axis=1)
    return np.concatenate([paired.candidate, paired.baseline], axis=1)


def _differences(totals: Floats, scale: Scale) -> Floats:
    """Candidate's score less the baseline's, from sums over documents as `_columns` has them."""
    first = _scores(totals[0], totals[1], scale)
    return first if len(totals) == 2 else first - _scores(totals[2], totals[3], scale)


def _scores(values: Floats, weights: Floats, scale: Scale) -> Floats:
    # A redraw of documents that all weigh nothing has no score; it counts as zero for both.
    ratio = np.divide(values, weights, out=np.zeros_like(values), where=weights > 0)
    return np.exp2(ratio) if scale == "power_of_two" else ratio
