"""The numbers of a range with a step, as a person counts them: 0.3, never 0.30000000000000004.

A binary fraction is not 0.1, so sums of them miss the numbers that a person counts. Here they are
decimals: `from`, `to` and `step` to fifteen digits, which every binary fraction can hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal

_DIGITS = 15
_NEARLY_WHOLE = Decimal("1e-9")
"""Of a step: 1/6 written as 0.16666666667 goes six times into 1."""
_EXACT = Context(prec=60)


@dataclass(frozen=True)
class Steps:
    """`count` numbers, from `first` by `step`."""

    first: Decimal
    step: Decimal
    count: int

    @classmethod
    def between(cls, low: float, high: float, step: float) -> Steps:
        """The numbers from `low`, as far as `high`.

        Raises:
            ValueError: the step is too small to tell one number from the next.
        """
        largest = max(abs(low), abs(high), abs(step))
        last_digit = Decimal(1).scaleb(Decimal(repr(largest)).adjusted() + 1 - _DIGITS)
        first, last, by = (
            Decimal(repr(each)).quantize(last_digit, ROUND_HALF_EVEN, _EXACT)
            for each in (low, high, step)
        )
        if by <= 0:
            raise ValueError(f"with a step of {step:g}, values next to each other look the same")
        whole = _EXACT.divide(_EXACT.subtract(last, first), by)
        return cls(first, by, int(whole + _NEARLY_WHOLE) + 1)

    def number(self, place: int) -> float:
        """The number at a place, counted from 0; from the end, where it is negative."""
        return float(_EXACT.fma(self.step, place % self.count, self.first))

    @property
    def numbers(self) -> list[float]:
        """All of them."""
        return [self.number(place) for place in range(self.count)]

    def nearest(self, number: float) -> float:
        """Of them, the one that a number computed in binary fractions stands for."""
        steps = _EXACT.divide(_EXACT.subtract(Decimal(repr(number)), self.first), self.step)
        return self.number(min(max(round(steps), 0), self.count - 1))
