"""How much of each expert's gain a candidate kept, in difference form.

For a share s, r = candidate - (1 - s) * baseline - s * expert per document has a mean of 0 or more
exactly if the share was kept. Unlike the quotient of two gains it has a plain standard error, and
does not explode where the expert gained little (Hung, Wang & O'Neill 2005 on effect retention).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tasks.statistics.changes import TaskArrays
from tasks.statistics.levels import below_probability, student_quantile
from tasks.statistics.linearised import spread_of
from tasks.statistics.ratios import ratio
from tasks.statistics.rule import Bools, Floats


class Retention(NamedTuple):
    """One expert on one task, in the values' own unit: [...] each."""

    gain: Floats
    """The expert's own gain over what it was made from."""
    is_certain: Bools
    """The gain is certainly above 0; elsewhere nothing can be kept."""
    kept: Floats
    """The candidate's gain over the expert's; NaN where the expert gained nothing."""
    low: Floats
    high: Floats
    """The interval of r."""
    p_below: Floats
    """How likely so little would be, had exactly the share been kept; 1 without a certain gain."""


def retention(task: TaskArrays, expert: Floats, level: float) -> Retention:
    """Compare what a candidate kept of an expert's gain ([..., documents]) with `rule.share`.

    Not clipped: an expert may gain more than a document may lose.
    """
    degrees = task.sampling.degrees
    quantile = float(student_quantile(level, degrees))
    before = task.baseline if task.origin is None else task.origin
    gain = spread_of(expert - before, task.sampling)
    is_certain = (gain.mean > quantile * np.sqrt(gain.larger)) & task.is_large_enough
    share = task.rule.share
    rest = task.candidate - (1.0 - share) * before - share * expert
    left = spread_of(rest, task.sampling)
    error = np.sqrt(left.larger)
    p = below_probability(ratio(left.mean, error), degrees)
    candidates_gain = task.sampling.mean(task.candidate - before)
    positive = gain.mean > 0
    kept = np.where(positive, candidates_gain / np.where(positive, gain.mean, 1.0), np.nan)
    return Retention(
        gain.mean,
        is_certain,
        kept,
        left.mean - quantile * error,
        left.mean + quantile * error,
        np.where(is_certain & ~np.isnan(p), p, 1.0),
    )
