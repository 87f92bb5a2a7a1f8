"""What is known of one candidate of a search, as Optuna keeps it and MLflow shows it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from merge_core.records import Record
from tasks.search.space import Value

Outcome = Literal["whole", "lost", "failed"]
"""`whole`: every document was evaluated. `lost`: it certainly was worse than the best so far before
that. `failed`: there is no such merge, or it could not be evaluated."""


class Seconds(Record):
    """What a trial's time went into."""

    merging: float = 0.0
    starting: float = 0.0
    """A process, the checkpoint's bytes read and compared, its weights loaded."""
    forward: float = 0.0

    @property
    def total(self) -> float:
        return self.merging + self.starting + self.forward

    def plus(self, other: Seconds) -> Seconds:
        """Both together."""
        return Seconds(
            merging=self.merging + other.merging,
            starting=self.starting + other.starting,
            forward=self.forward + other.forward,
        )


class Result(Record):
    """What came of a trial."""

    outcome: Outcome
    recipe: str
    """Its digest."""
    objective: float | None = None
    """The mean change over the tasks against the base, in units, as the gate has it. Of a trial
    that lost, what its documents say beside those of the best, added to the best's."""
    low: float | None = None
    """The interval of `objective`; None for a trial that lost."""
    high: float | None = None
    tasks: dict[str, float] = Field(default_factory=dict)
    """Change by task, in units."""
    documents: int = 0
    """That were evaluated."""
    of_documents: int = 0
    seconds: Seconds = Seconds()
    known: bool = False
    """Whether its evaluation was found by its content, and cost nothing."""
    why: str = ""
    """Of one that failed."""


class Trial(Record):
    """One candidate with its number in the search."""

    number: int
    values: dict[str, Value]
    """By knob; empty for a candidate outside the space, which `label` names."""
    label: str = ""
    result: Result
    key: str = ""
    """Where its evaluation is found."""

    @property
    def name(self) -> str:
        """Its values, or what it is called."""
        said = ", ".join(f"{name} {_told(value)}" for name, value in self.values.items())
        return f"{said} ({self.label})" if said and self.label else said or self.label


def _told(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
