"""A mean with its error over seeds and held-out documents, and what is concluded from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["held", "not shown", "the opposite was seen"]
BEYOND = 2.0
"""Standard errors that a mean has to be away from zero to count as seen."""


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error."""

    mean: float
    error: float
    seeds: int
    documents: int

    @property
    def verdict(self) -> Verdict:
        """Of a claim that the mean is above zero."""
        if self.mean > BEYOND * self.error:
            return "held"
        return "the opposite was seen" if self.mean < -BEYOND * self.error else "not shown"


@dataclass(frozen=True)
class Part:
    """A value of each held-out document for each seed, which counts `weight` times in a sum."""

    values: NDArray[np.float64]
    """Seeds by documents; documents are the same for every seed."""
    groups: Sequence[str]
    """The file that each document is from: documents of one file are alike."""
    weight: float = 1.0


def estimate(parts: Sequence[Part]) -> Estimate:
    """The weighted sum of the parts' means over seeds and documents.

    The variance is that between the seeds' sums plus that between the groups of documents, each
    over its number. A difference between a seed and a document enters both, so the error is rather
    too large than too small. With one seed it is that of the documents alone. Parts of the same
    documents are added document by document first; other documents are independent.
    """
    if len({part.values.shape[0] for part in parts}) != 1:
        raise ValueError("every part needs the same seeds")
    by_documents: dict[tuple[str, ...], NDArray[np.float64]] = {}
    for part in parts:
        groups = tuple(part.groups)
        by_documents[groups] = part.weight * part.values + by_documents.get(groups, 0.0)
    of_seeds = np.sum([values.mean(axis=1) for values in by_documents.values()], axis=0)
    variance = sum(_between_groups(values, groups) for groups, values in by_documents.items())
    count = len(of_seeds)
    if count > 1:
        variance += float(np.var(of_seeds, ddof=1)) / count
    documents = sum(map(len, by_documents))
    return Estimate(float(np.mean(of_seeds)), math.sqrt(variance), count, documents)


def mean_of(parts: Sequence[Part]) -> Estimate:
    """The mean of the parts' means, each part counting alike."""
    share = 1 / len(parts)
    return estimate([Part(each.values, each.groups, each.weight * share) for each in parts])


def _between_groups(values: NDArray[np.float64], groups: Sequence[str]) -> float:
    """Variance of the mean over documents, whole groups of which were drawn."""
    by_document = values.mean(axis=0)
    away = by_document - by_document.mean()
    _, places = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(places, weights=away)
    if len(sums) < 2:
        return 0.0
    return float((sums**2).sum() / len(away) ** 2 * len(sums) / (len(sums) - 1))
