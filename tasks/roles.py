"""The names that people read for the checkpoints of a decision.

A merge is judged against its base, the champion, its best expert or a checkpoint that the rule
names; an average against a checkpoint of its training, the champion, or one that the rule names.
"""

from __future__ import annotations

from dataclasses import dataclass

_WITH_ARTICLE = (
    *("base", "champion", "best expert", "baseline"),
    *("latest checkpoint", "best checkpoint"),
)


def the(baseline: str) -> str:
    """A baseline in a sentence: `the champion`, or the reference as it is written."""
    return f"the {baseline}" if baseline in _WITH_ARTICLE else baseline


@dataclass(frozen=True)
class Roles:
    """The names of both checkpoints; they depend on the kind of baseline."""

    baseline: str = "base"
    """What the first one that a candidate has to beat is called."""
    is_average: bool = False

    @property
    def candidate(self) -> str:
        """The name of a column, a step."""
        return "average" if self.is_average else "merged"

    @property
    def the_candidate(self) -> str:
        """In a sentence."""
        return "the average" if self.is_average else "the merged checkpoint"

    @property
    def the_baseline(self) -> str:
        """In a sentence."""
        return the(self.baseline)


MERGE = Roles()
