"""Decisions of tests, from a rule and evaluations in a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tasks.decide
import tasks.promotion.decision
from tasks.promotion.bar import Bar
from tasks.promotion.baselines import ComparedWith
from tasks.promotion.rule import PromotionRule
from tasks.records import Decision, EvaluationReport


def bar(
    baseline: EvaluationReport,
    rule: PromotionRule,
    experts: Sequence[EvaluationReport] = (),
    called: str = "base",
    others: Sequence[ComparedWith] = (),
    origin: EvaluationReport | None = None,
) -> Bar:
    """What a candidate is held to."""
    return Bar(rule, baseline, called, experts, others, origin)


def believed(decision: Decision, candidate: EvaluationReport, *held_to: Any, **more: Any) -> bool:
    """Whether the step takes a stored decision for the same arguments."""
    return tasks.decide._fits(decision, candidate=candidate, bar=bar(*held_to, **more))


def decide(candidate: EvaluationReport, *held_to: Any, **more: Any) -> Decision:
    """The decision on a candidate; what it is held to as `bar` takes it."""
    return tasks.promotion.decision.decide(candidate, bar(*held_to, **more))


def decision_key(candidate: EvaluationReport, *held_to: Any, **more: Any) -> str:
    """Its key, of the same arguments."""
    return tasks.decide.decision_key(candidate, bar(*held_to, **more))
