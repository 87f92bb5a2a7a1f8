"""Variances of weighted means over documents, by document and by group.

A mean is `sum(w x) / sum(w)`. Its variance is that of the linearised sum of `w (x - mean) / sum(w)`
(Woodruff 1971; Cochran 1977, chapters 6, 9 and 11), so ratios like bits per byte are right too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tasks.statistics.rule import Floats, GateRule
from tasks.statistics.sampling import Groups, Sampling


class Spread(NamedTuple):
    """A mean with its variances, all [...], in the values' own unit (and its square)."""

    mean: Floats
    by_document: Floats
    """As if each document had been drawn alone."""
    by_group: Floats
    influence: Floats
    """[..., groups]: each group's share of the mean's error; sums to 0 without strata."""

    @property
    def larger(self) -> Floats:
        """The larger variance: groups that happen to disagree are no evidence of precision."""
        return np.maximum(self.by_document, self.by_group)


def spread_of(values: Floats, sampling: Sampling) -> Spread:
    """[..., documents] of values -> their weighted mean and its variances."""
    mean = sampling.mean(values)
    influence = (values - mean[..., None]) * (sampling.weights / sampling.total)
    by_document = _variance(influence, sampling.document_strata)
    if sampling.groups is None:
        return Spread(mean, by_document, by_document, influence)
    grouped = sampling.groups.sums(influence)
    return Spread(mean, by_document, _variance(grouped, sampling.group_strata), grouped)


def design_effect(spread: Spread, discordant: Floats, sampling: Sampling, rule: GateRule) -> Floats:
    """How many documents count as one, at least 1: [...].

    Few groups say little of how alike their documents are. So the measured effect is averaged with
    `shrink` pseudo-groups whose documents are all alike. With fewer than `min_discordant` groups
    that contain a change, it is at least the effect of such pseudo-groups.

    Args:
        discordant: [...], the number of groups that contain a change.
    """
    if sampling.groups is None:
        return np.ones_like(spread.mean)
    alike = sampling.mean_group_size
    some = spread.by_document > 0
    measured = np.where(some, spread.by_group / np.where(some, spread.by_document, 1.0), alike)
    together = discordant + rule.shrink
    effect = (discordant * measured + rule.shrink * alike) / np.where(together > 0, together, 1.0)
    few = discordant < rule.min_discordant
    return np.asarray(np.maximum(np.where(few, np.maximum(effect, alike), effect), 1.0))


def _variance(parts: Floats, strata: Groups | None) -> Floats:
    """Variance of a sum of independent parts, [..., parts] -> [...]."""
    squares = parts * parts
    if strata is None:
        count = parts.shape[-1]
        return np.asarray(squares.sum(axis=-1) * (count / max(count - 1, 1)))
    sizes = np.bincount(strata.index)
    within = strata.sums(squares) - strata.sums(parts) ** 2 / sizes
    return np.asarray(np.maximum((within * (sizes / (sizes - 1))).sum(axis=-1), 0.0))
