"""Differences of paired proportions: the score statistic and interval of Tango (1998).

Of n documents, `gained` became right and `lost` became wrong. What is tested is a true change
`change` in the share of right answers. Counts may be fractions (divided by a design effect) and
arrays of any shapes that broadcast. Unlike a bootstrap or Wald's interval it is honest when nothing
flipped: [-z^2 / (n + z^2), z^2 / (n + z^2)].

Tango, T. (1998), Statistics in Medicine 17, 891-908.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tasks.statistics.ratios import ratio
from tasks.statistics.rule import Floats

_HALVINGS = 50
"""Bisections of [-1, 1]: what remains is 2e-15."""


def score_statistic(
    gained: ArrayLike, lost: ArrayLike, documents: ArrayLike, change: ArrayLike
) -> Floats:
    """(gained - lost - n * change) over its standard error under that change. Normal under it.

    Nothing flipped, and a change of 0 asked about: 0.
    """
    gained, lost, n, change = (
        np.asarray(each, dtype=np.float64) for each in (gained, lost, documents, change)
    )
    # The likeliest probability of a loss under the change: the larger root of A q^2 + B q + C.
    linear = (2.0 * n - gained + lost) * change - gained - lost
    constant = -lost * change * (1.0 - change)
    root = np.sqrt(np.maximum(linear * linear - 8.0 * n * constant, 0.0))
    losing = (root - linear) / (4.0 * n)
    variance = n * (2.0 * losing + change * (1.0 - change))
    return ratio(gained - lost - n * change, np.sqrt(np.maximum(variance, 0.0)))


def score_limits(
    gained: ArrayLike, lost: ArrayLike, documents: ArrayLike, quantile: ArrayLike
) -> tuple[Floats, Floats]:
    """The changes at which the statistic is `quantile` (the lower limit) and minus that.

    Args:
        quantile: above 0; 1.96 for an interval of 95 %.
    """
    shape = np.broadcast(gained, lost, documents, quantile).shape
    limits = []
    for sign in (1.0, -1.0):
        low, high = np.full(shape, -1.0), np.full(shape, 1.0)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2.0
            above = score_statistic(gained, lost, documents, middle) > sign * np.asarray(quantile)
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        limits.append((low + high) / 2.0)
    return limits[0], limits[1]
