"""What the calibrated gate found against one baseline: all that its reasons are told from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tasks.promotion.baselines import ComparedWith
from tasks.records import CalibratedGate, TaskComparison, TaskScore, Verdict
from tasks.roles import the
from tasks.statistics import GateResult, GateRule
from tasks.statistics.results import PlanResult


@dataclass(frozen=True)
class Against:
    """What was found against one baseline."""

    baseline: ComparedWith
    rule: GateRule
    result: GateResult
    planned: PlanResult
    comparisons: tuple[TaskComparison, ...]
    gate: CalibratedGate
    verdict: Verdict
    must_hold: Mapping[str, float]
    """Tasks that must hold, each with its margin in units; 0: no loss at all."""
    uncounted: tuple[str, ...] = ()
    """Tasks whose answers were counted for one of the two alone."""

    @property
    def called(self) -> str:
        """The baseline in a sentence."""
        return the(self.baseline.name)

    def without_experts(self) -> Against:
        """The same without what was kept of the experts: the first baseline's reasons tell it."""
        return replace(self, gate=self.gate.model_copy(update={"kept": ()}))


def in_metric(before: TaskScore, change: float) -> float:
    """A change of the documents' mean as a change of the score: a perplexity is a power of bits."""
    if before.scale == "power_of_two":
        return float(before.score * (1.0 - 2.0**-change))
    return change
