"""What the gate says, as plain frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["promoted", "fell_back", "inconclusive"]
Outcome = Literal["held", "regressed", "unclear", "invalid"]
Kept = Literal["kept", "below", "unclear", "no_certain_gain"]


@dataclass(frozen=True)
class WorstDocument:
    """A document that cost the candidate much."""

    index: int
    """Place in the measurement's arrays."""
    change: float
    """In the metric's own unit, not clipped; below 0."""
    weight: float


@dataclass(frozen=True)
class PrimaryResult:
    """The weighted mean change over the tasks, in units."""

    change: float
    low: float
    high: float
    exceed: float
    outcome: Literal["gained", "below", "unclear"]
    """Certainly above `exceed`, certainly not above it, or neither."""


@dataclass(frozen=True)
class TaskResult:
    """One task. Changes are positive where better, in the metric's own unit unless it is said."""

    name: str
    kind: str
    outcome: Outcome
    """`held`: certainly did not lose the margin. `regressed`: certainly lost more, by Holm; or lost
    anything, where it must hold."""
    baseline: float
    candidate: float
    """Scores as the metric has them, on the documents compared."""
    change: float
    """Of unbounded metrics with each document clipped; the interval is of this."""
    low: float
    high: float
    unclipped_change: float
    unit: float
    change_units: float
    low_units: float
    high_units: float
    margin: float
    """In units."""
    share: float
    """Of the primary endpoint; all tasks' shares sum to 1."""
    documents: int
    groups: int
    effective_groups: float
    """Smaller than `groups` where they are unequal."""
    gained: int | None
    """Documents that became right; None for metrics other than 0/1, like what follows."""
    lost: int | None
    blame_p: float
    """p of having lost more than the margin, corrected by Holm over the tasks."""
    non_finite: int
    """Documents without a finite value of the candidate's, although the baseline has one."""
    left_out: int
    """Documents that weigh nothing, or for which the baseline has no finite value."""
    worst: tuple[WorstDocument, ...]


@dataclass(frozen=True)
class RetentionResult:
    """What was kept of one expert's gain on one task, in the metric's own unit."""

    task: str
    expert: str
    expert_gain: float
    kept: float
    """The candidate's gain over the expert's."""
    low: float
    high: float
    """Interval of candidate - (1 - share) * baseline - share * expert; above 0: more was kept."""
    blame_p: float
    outcome: Kept


@dataclass(frozen=True)
class GateResult:
    """The verdict, and all that it rests on."""

    verdict: Verdict
    primary: PrimaryResult
    tasks: tuple[TaskResult, ...]
    retention: tuple[RetentionResult, ...]
    level: float
    """One-sided level of every interval: alpha, or less before the last look."""
    look: int
    looks: int
    chance: float | None
    """Of being promoted in the end, if what comes is a standard error better; None at the last."""


@dataclass(frozen=True)
class TaskPlan:
    """What a task can show, known before the merge."""

    name: str
    documents: int
    effective_groups: float
    unit: float
    margin: float
    """In units: what the task will be guarded at."""
    reach: float | None
    """In units: the margin that an unchanged candidate holds with `guard_power`. None: no expert to
    plan from, so the margin is as the rule has it."""
    is_met: bool
    """Whether the margin is at least the reach: if not, an unchanged candidate is refused often."""
    documents_needed: int | None
    """For the rule's own margin; None: without a plan, or more than a thousand times as many."""


@dataclass(frozen=True)
class PlanResult:
    """What a suite can show of a merge of these experts."""

    tasks: tuple[TaskPlan, ...]
    visible_change: float | None
    """In units: the smallest weighted mean change that is promoted with `visible_power`; None: a
    task could not be planned."""
