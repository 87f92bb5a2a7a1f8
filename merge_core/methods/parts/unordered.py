"""Sums that the order of their terms does not change, not even in the last bit.

Terms are cut into two parts on grids that are the same for all of them: a grid is a power of two so
large that sums of its multiples are exact, and exact sums have no order. What the two grids cannot
hold is below 2**-90 of the largest term (Demmel and Nguyen 2013, Fast reproducible floating-point
summation). Where models vote on a sign, a sum that is 0 but for the rounding of its terms is 0.
Two terms have no order anyway, and are added as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from merge_core.reductions.sums import add_up
from merge_core.runtime.lazy_torch import torch

FEW = 2
"""Terms whose sum has no order."""
_EXPONENT = 0x7FF << 52
_BITS = 52
"""Of a float64, after the first."""


def grid_factors(count: int) -> tuple[float, float, float]:
    """What makes, of the power of two below the largest of `count` terms, the coarse grid; of that
    the fine grid; and of the same power the size below which a sum is rounding.

    A grid is a number whose last bit is the grid's step: a term is rounded to a multiple of it by
    adding the number and taking it away again.
    """
    doublings = (count - 1).bit_length()
    return 1.5 * 2.0 ** (doublings + 2), 2.0 ** (doublings - _BITS), 2.0 ** (doublings + 2 - _BITS)


class Parts:
    """Terms of one sum, each cut in two.

    Args:
        terms: equal-shaped float64 tensors, more than `FEW`.
    """

    def __init__(self, terms: Sequence[torch.Tensor]) -> None:
        largest = terms[0].abs()
        for term in terms[1:]:
            largest = torch.maximum(largest, term.abs())
        power = (largest.view(torch.int64) & _EXPONENT).view(torch.float64)
        of_largest, of_coarse, of_rounding = grid_factors(len(terms))
        self._rounding = power * of_rounding
        coarse = power * of_largest
        fine = coarse * of_coarse
        self._coarse = [(term + coarse) - coarse for term in terms]
        self._fine = [
            ((term - part) + fine) - fine for term, part in zip(terms, self._coarse, strict=True)
        ]

    def sum(self) -> torch.Tensor:
        """The sum of all terms."""
        return add_up(self._coarse) + add_up(self._fine)

    def are_positive(self) -> torch.Tensor:
        """Where the sum is above 0, or 0 but for rounding: bool."""
        return self.sum() + self._rounding >= 0

    def sum_where(self, chosen: Sequence[torch.Tensor]) -> torch.Tensor:
        """The sum, entry by entry, of the terms that are chosen (bool, one for each term)."""
        totals = [torch.zeros_like(self._coarse[0]) for _ in range(2)]
        for total, parts in zip(totals, (self._coarse, self._fine), strict=True):
            for part, where in zip(parts, chosen, strict=True):
                total += part * where
        return totals[0] + totals[1]


def unordered_sum(terms: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of equal-shaped float64 tensors, the same in any order."""
    return Parts(terms).sum() if len(terms) > FEW else add_up(terms)


def vote(terms: Sequence[torch.Tensor]) -> torch.Tensor:
    """Where equal-shaped float64 tensors, in any order, add up to 0 or more: bool."""
    return Parts(terms).are_positive() if len(terms) > FEW else add_up(terms) >= 0


def order_of(shares: Sequence[float]) -> list[int]:
    """In which order to add up shares of models: by size, so that the models' own means nothing."""
    places = range(len(shares))
    return sorted(places, key=shares.__getitem__) if len(shares) > FEW else [*places]
