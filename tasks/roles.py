"""The names that people read for the two checkpoints of a decision.

A merge is judged against its base. An average has none: it is judged against a checkpoint of its
training, or against the champion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Baseline = Literal["base", "latest checkpoint", "best checkpoint", "champion"]


@dataclass(frozen=True)
class Roles:
    """The names of both checkpoints; they depend on the kind of baseline."""

    baseline: Baseline = "base"

    @property
    def candidate(self) -> str:
        """The name of a column, a step."""
        return "merged" if self.baseline == "base" else "average"

    @property
    def the_candidate(self) -> str:
        """In a sentence."""
        return "the merged checkpoint" if self.baseline == "base" else "the average"

    @property
    def the_baseline(self) -> str:
        """In a sentence."""
        return f"the {self.baseline}"


MERGE = Roles()
