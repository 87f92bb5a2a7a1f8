"""What `make science` measured on models of a million parameters, as far as advice rests on it.

`benchmarks/science/measured.json` has the numbers with all their digits; a test compares them.
"""

from __future__ import annotations

from typing import NamedTuple


class Measured(NamedTuple):
    """A mean and its standard error, over seeds and documents."""

    mean: float
    error: float

    def __str__(self) -> str:
        """How large: `0.146 ± 0.017`; a sentence says in which direction."""
        return f"{abs(self.mean):.3f} ± {self.error:.3f}"


MEASURED = {
    "length_ratio": Measured(2.525, 0.018),
    "normalising_helps": Measured(0.009, 0.002),
    "ties_over_task_arithmetic": Measured(-0.143, 0.01),
    "dare_over_task_arithmetic": Measured(-0.128, 0.006),
    "elected_signs_at_equal_length": Measured(-0.013, 0.002),
    "sign_conflicts_2": Measured(0.484, 0.0),
    "sign_conflicts_8": Measured(0.948, 0.003),
    "barrier_same_base": Measured(-0.043, 0.002),
    "barrier_other_base": Measured(0.659, 0.022),
}
BEST_SCALE_OF_TWO = 0.5
"""Of the sum of two task vectors."""
