"""Student's t of a mean over few or skewed groups, corrected for skewness by Hall (1992).

A sample may hold few of rare, large losses. Then its mean is near 0 and its standard error small,
so t is too sure. The cubic transformation removes that to first order. It is monotone, so its
inverse gives limits.

Hall, P. (1992), Journal of the Royal Statistical Society B 54, 221-228.
"""

from __future__ import annotations

import numpy as np

from tasks.statistics.rule import Floats


def skewness(influence: Floats) -> Floats:
    """[..., groups] -> [...]: the skewness of the groups' parts; 0 where all parts are 0."""
    squares = influence * influence
    second = squares.mean(axis=-1)
    third = (squares * influence).mean(axis=-1)
    some = second > 0
    return np.asarray(np.where(some, third / np.where(some, second, 1.0) ** 1.5, 0.0))


def corrected(t: Floats, skew: Floats, groups: int) -> Floats:
    """Hall's g(t), which has Student's distribution more nearly than t of skewed values has."""
    a = skew / np.sqrt(groups)
    infinite = np.isinf(t)
    finite = np.where(infinite, 0.0, t)
    cubic = finite + a * finite**2 / 3.0 + a**2 * finite**3 / 27.0 + a / 6.0
    return np.asarray(np.where(infinite, t, cubic))


def uncorrected(g: Floats, skew: Floats, groups: int) -> Floats:
    """The t whose corrected value is g: the inverse of `corrected`."""
    a = skew / np.sqrt(groups)
    straight = np.abs(a) < 1e-9
    safe = np.where(straight, 1.0, a)
    curved = 3.0 / safe * (np.cbrt(1.0 + safe * (g - safe / 6.0)) - 1.0)
    return np.asarray(np.where(straight, g - a / 6.0, curved))
