"""McNemar's exact test of two models on the same questions: information, which decides nothing."""

from __future__ import annotations

from math import comb


def mcnemar_p(gained: int, lost: int) -> float:
    """The two-sided p of as unequal a split, if neither direction is likelier.

    The binomial form of McNemar 1947, on the documents that became right and those that became
    wrong.
    """
    flips = gained + lost
    tail = sum(comb(flips, fewer) for fewer in range(min(gained, lost) + 1))
    return min(1.0, float(2 * tail / 2**flips))
