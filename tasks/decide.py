"""The decision step: `tasks.promotion.decision.decide`, as a cached Prefect task."""

from __future__ import annotations

from merge_core.files.digests import digest_of
from tasks.caching.content_task import content_task
from tasks.promotion.bar import Bar
from tasks.promotion.decision import decide
from tasks.promotion.rule import AFTERWARDS
from tasks.records import Decision, EvaluationReport


def decision_key(candidate: EvaluationReport, bar: Bar) -> str:
    """The cache key of one decision: everything in the reports and the rule.

    What becomes of it afterwards is no part of it: what the numbers say stays the same.
    """
    reports = [candidate, bar.baseline, *bar.experts]
    more: dict[str, object] = {}
    if bar.called != "base":
        more["called"] = bar.called
    if bar.others:
        more["others"] = [other.model_dump(mode="json") for other in bar.others]
    if bar.origin is not None:
        more["origin"] = bar.origin.model_dump(mode="json")
    return digest_of(
        {
            "reports": [report.model_dump(mode="json") for report in reports],
            "rule": bar.rule.model_dump(mode="json", exclude=AFTERWARDS),
            **more,
        }
    )


def _fits(decision: Decision, /, candidate: EvaluationReport, bar: Bar, **_others: object) -> bool:
    """A person's word is never cached: a decision that brings one along is not of this step."""
    compared = {each.task: (each.candidate, each.baseline) for each in decision.comparisons}
    before = {score.task: score.score for score in bar.baseline.scores}
    return (
        decision.candidate_digest == candidate.checkpoint_digest
        and decision.baseline_digest == bar.baseline.checkpoint_digest
        and _asks_for_the_same(decision, bar)
        and compared
        == {each.task: (each.score, before.get(each.task)) for each in candidate.scores}
        and decision.approval is None
    )


def _asks_for_the_same(decision: Decision, bar: Bar) -> bool:
    rule = bar.rule
    if (decision.baseline or "base") != bar.called:
        return False
    if rule.gate == "former":
        asked = (decision.min_gain, decision.confidence) == (rule.min_gain, rule.confidence)
        return decision.gate is None and asked
    if decision.gate is None:  # a candidate that could not be evaluated was measured by no gate
        return not decision.comparisons
    from tasks.promotion.calibrated import gate_rule, nights_of, rule_against  # scipy is slow

    named = [(other.name, other.report.checkpoint_digest) for other in bar.others]
    if [(each.baseline, each.digest) for each in decision.others or ()] != named:
        return False
    nights = nights_of(rule, [each.name for each in bar.baselines])
    numbers = rule_against(gate_rule(rule), bar.called, nights)
    return (decision.gate.exceed, decision.gate.alpha) == (numbers.exceed, numbers.alpha)


@content_task("decide", version=6, key=decision_key, fits=_fits, retries=0)
def decide_task(candidate: EvaluationReport, bar: Bar) -> Decision:
    """`decide` as a cached step."""
    return decide(candidate, bar)
