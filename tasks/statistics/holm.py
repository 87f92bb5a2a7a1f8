"""Holm's step-down correction (Holm 1979): whom to blame, when many were asked.

It is for blame only. A promotion needs all tests at once, which needs no correction (Berger 1982).
"""

from __future__ import annotations

import numpy as np

from tasks.statistics.rule import Floats


def holm(p: Floats) -> Floats:
    """[..., tests] of p -> [..., tests] of corrected p, at most 1.

    Those at most alpha are blamed; the chance to blame any innocent one is at most alpha.
    """
    tests = p.shape[-1]
    order = np.argsort(p, axis=-1, kind="stable")
    scaled = np.take_along_axis(p, order, axis=-1) * np.arange(tests, 0, -1)
    stepped = np.minimum(np.maximum.accumulate(scaled, axis=-1), 1.0)
    corrected = np.empty_like(stepped)
    np.put_along_axis(corrected, order, stepped, axis=-1)
    return corrected
