"""The unit that changes are counted in: how much documents differ under the baseline.

Glass's delta (Glass 1976): the baseline's standard deviation between documents. It does not change
with the candidate, is not ruled by small scores, and lets accuracy and bits per byte be added. One
point of accuracy is about 0.02 units, 0.048 bits per byte are about 0.1.
"""

from __future__ import annotations

import numpy as np

from tasks.statistics.rule import Floats, GateRule, Kind
from tasks.statistics.sampling import Sampling


def unit_of(baseline: Floats, sampling: Sampling, kind: Kind, rule: GateRule) -> Floats:
    """[..., documents] of the baseline's values -> [...], in the values' own unit.

    Metrics between 0 and 1 have at least `rule.smallest_unit`: where nearly everything is right or
    wrong, one document would else be a large change. Where an unbounded metric is the same for all
    documents, changes are counted as they are: 1.
    """
    deviation = baseline - sampling.mean(baseline)[..., None]
    unit = np.sqrt(sampling.mean(deviation * deviation))
    if kind == "score":
        return np.where(unit > 0, unit, 1.0)
    return np.maximum(unit, rule.smallest_unit)
