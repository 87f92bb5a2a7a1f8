"""Quantiles for a one-sided level: Student's t, or the normal distribution's."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from tasks.statistics.rule import Floats


def normal_quantile(level: float) -> float:
    """The z that a normal number exceeds with probability `level`."""
    return float(-ndtri(level))


def student_quantile(level: float, degrees: ArrayLike) -> Floats:
    """The t that Student's t exceeds with probability `level`; degrees of infinity are normal."""
    degrees = np.asarray(degrees, dtype=np.float64)
    finite = np.isfinite(degrees)
    t = -stdtrit(np.where(finite, degrees, 1.0), level)
    return np.asarray(np.where(finite, t, normal_quantile(level)))


def below_probability(statistic: Floats, degrees: float) -> Floats:
    """The probability of a statistic as low as this, or lower."""
    return np.asarray(ndtr(statistic) if np.isinf(degrees) else stdtr(degrees, statistic))
