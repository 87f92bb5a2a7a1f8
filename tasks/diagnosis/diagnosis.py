"""All that a diagnosis found, as one record: what the page, the terminal and JSON show."""

from __future__ import annotations

from merge_core.operations.diagnosis.weights import WeightDiagnosis
from merge_core.records import Record
from merge_core.verification.verify import CompatibilityReport
from tasks.diagnosis.advice import Advice
from tasks.diagnosis.curves import Curves
from tasks.reports.names import distinct_names

NOTHING = "Nothing in these numbers asks for a change."
"""In place of advice, where there is none."""


class Diagnosis(Record):
    """A recipe's checkpoints, looked at before there is a merge."""

    name: str
    """Of the recipe's file or of the pipeline."""
    recipe_digest: str
    method: str
    base: str | None
    """Reference of the common base."""
    models: tuple[str, ...]
    """References, without the base."""
    compatibility: CompatibilityReport
    weights: WeightDiagnosis | None = None
    no_weights: str = ""
    """Why there are no task vectors."""
    curves: Curves | None = None
    no_curves: str = ""
    """Why nothing was evaluated."""
    advice: tuple[Advice, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The models by as little of their references as tells each from the others."""
        return tuple(distinct_names(self.models))
