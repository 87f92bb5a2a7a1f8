"""The decision step: `tasks.promotion.rule.decide`, as a cached Prefect task."""

from __future__ import annotations

from collections.abc import Sequence

from merge_core.files.digests import digest_of
from tasks.caching.content_task import content_task
from tasks.promotion.baselines import ComparedWith
from tasks.promotion.decision import decide
from tasks.promotion.rule import AFTERWARDS, PromotionRule
from tasks.records import Decision, EvaluationReport


def decision_key(
    candidate: EvaluationReport,
    baseline: EvaluationReport,
    rule: PromotionRule,
    experts: Sequence[EvaluationReport] = (),
    called: str = "base",
    others: Sequence[ComparedWith] = (),
    origin: EvaluationReport | None = None,
) -> str:
    """The cache key of one decision: everything in the reports and the rule.

    What becomes of it afterwards is no part of it: what the numbers say stays the same.
    """
    reports = [candidate, baseline, *experts]
    more: dict[str, object] = {}
    if called != "base":
        more["called"] = called
    if others:
        more["others"] = [other.model_dump(mode="json") for other in others]
    if origin is not None:
        more["origin"] = origin.model_dump(mode="json")
    return digest_of(
        {
            "reports": [report.model_dump(mode="json") for report in reports],
            "rule": rule.model_dump(mode="json", exclude=AFTERWARDS),
            **more,
        }
    )


def _fits(
    decision: Decision,
    /,
    candidate: EvaluationReport,
    baseline: EvaluationReport,
    rule: PromotionRule,
    called: str = "base",
    others: Sequence[ComparedWith] = (),
    **_others: object,
) -> bool:
    """A person's word is never cached: a decision that brings one along is not of this step."""
    compared = {each.task: (each.candidate, each.baseline) for each in decision.comparisons}
    before = {score.task: score.score for score in baseline.scores}
    return (
        decision.candidate_digest == candidate.checkpoint_digest
        and decision.baseline_digest == baseline.checkpoint_digest
        and _asks_for_the_same(decision, rule, called, others)
        and compared
        == {each.task: (each.score, before.get(each.task)) for each in candidate.scores}
        and decision.approval is None
    )


def _asks_for_the_same(
    decision: Decision, rule: PromotionRule, called: str, others: Sequence[ComparedWith]
) -> bool:
    if (decision.baseline or "base") != called:
        return False
    if rule.gate == "former":
        asked = (decision.min_gain, decision.confidence) == (rule.min_gain, rule.confidence)
        return decision.gate is None and asked
    if decision.gate is None:  # a candidate that could not be evaluated was measured by no gate
        return not decision.comparisons
    from tasks.promotion.calibrated import gate_rule, nights_of, rule_against  # scipy is slow

    named = [(other.name, other.report.checkpoint_digest) for other in others]
    if [(each.baseline, each.digest) for each in decision.others or ()] != named:
        return False
    nights = nights_of(rule, [called, *(name for name, _ in named)])
    numbers = rule_against(gate_rule(rule), called, nights)
    return (decision.gate.exceed, decision.gate.alpha) == (numbers.exceed, numbers.alpha)


@content_task("decide", version=3, key=decision_key, fits=_fits, retries=0)
def decide_task(
    candidate: EvaluationReport,
    baseline: EvaluationReport,
    rule: PromotionRule,
    experts: Sequence[EvaluationReport] = (),
    called: str = "base",
    others: Sequence[ComparedWith] = (),
    origin: EvaluationReport | None = None,
) -> Decision:
    """`decide` as a cached step."""
    return decide(candidate, baseline, rule, experts, called=called, others=others, origin=origin)
