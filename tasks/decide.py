"""The decision step: `tasks.promotion.rule.decide`, as a cached Prefect task."""

from __future__ import annotations

from collections.abc import Sequence

from merge_core.files.digests import digest_of
from tasks.caching.content_task import content_task
from tasks.promotion.decision import decide
from tasks.promotion.rule import AFTERWARDS, PromotionRule
from tasks.records import Decision, EvaluationReport


def decision_key(
    candidate: EvaluationReport,
    baseline: EvaluationReport,
    rule: PromotionRule,
    experts: Sequence[EvaluationReport] = (),
) -> str:
    """The cache key of one decision: everything in the reports and the rule.

    What becomes of it afterwards is no part of it: what the numbers say stays the same.
    """
    reports = [candidate, baseline, *experts]
    return digest_of(
        {
            "reports": [report.model_dump(mode="json") for report in reports],
            "rule": rule.model_dump(mode="json", exclude=AFTERWARDS),
        }
    )


def _fits(
    decision: Decision,
    /,
    candidate: EvaluationReport,
    baseline: EvaluationReport,
    rule: PromotionRule,
    **_others: object,
) -> bool:
    """A person's word is never cached: a decision that brings one along is not of this step."""
    compared = {each.task: (each.candidate, each.baseline) for each in decision.comparisons}
    before = {score.task: score.score for score in baseline.scores}
    return (
        decision.candidate_digest == candidate.checkpoint_digest
        and decision.baseline_digest == baseline.checkpoint_digest
        and _asks_for_the_same(decision, rule)
        and compared
        == {each.task: (each.score, before.get(each.task)) for each in candidate.scores}
        and decision.approval is None
    )


def _asks_for_the_same(decision: Decision, rule: PromotionRule) -> bool:
    if rule.gate == "former":
        asked = (decision.min_gain, decision.confidence) == (rule.min_gain, rule.confidence)
        return decision.gate is None and asked
    if decision.gate is None:  # a candidate that could not be evaluated was measured by no gate
        return not decision.comparisons
    from tasks.promotion.calibrated import gate_rule  # scipy is slow to import

    numbers = gate_rule(rule)
    return (decision.gate.exceed, decision.gate.alpha) == (numbers.exceed, numbers.alpha)


@content_task("decide", version=2, fits=_fits, retries=0)
def decide_task(
    key: str,
    candidate: EvaluationReport,
    baseline: EvaluationReport,
    rule: PromotionRule,
    experts: Sequence[EvaluationReport] = (),
) -> Decision:
    """`decide` as a cached step."""
    return decide(candidate, baseline, rule, experts)
