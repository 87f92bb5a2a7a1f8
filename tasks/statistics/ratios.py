"""Division for statistics: nothing over nothing is nothing, and NaN stays NaN."""

from __future__ import annotations

import numpy as np

from tasks.statistics.rule import Floats


def ratio(distance: Floats, error: Floats) -> Floats:
    """distance / error; 0 / 0 is 0, and any other distance over an error of 0 is infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = distance / error
    return np.asarray(np.where((distance == 0) & (error == 0), 0.0, quotient))
