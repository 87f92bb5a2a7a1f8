"""The calibrated gate: stored evaluations in, the statistics' verdict with its reasons out.

Imported only where a rule asks for it: the statistics load scipy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from merge_core.errors import StepError
from tasks.promotion.against import Against, in_metric
from tasks.promotion.answers import compare_answers, uncounted
from tasks.promotion.bar import Bar
from tasks.promotion.baselines import MOVING, ComparedWith
from tasks.promotion.calibrated_keys import NIGHTS
from tasks.promotion.calibrated_reasons import All, reasons
from tasks.promotion.comparable import other_prompts, said_of_batches
from tasks.promotion.measured import measurements
from tasks.promotion.parts import as_far, said_of_looks
from tasks.promotion.rule import PromotionRule
from tasks.promotion.suite_plan import suite_plan
from tasks.records import (
    AgainstAnother,
    CalibratedGate,
    Decision,
    EvaluationReport,
    GuardedTask,
    KeptOfExpert,
    Outcome,
    TaskComparison,
    TaskScore,
    Verdict,
)
from tasks.statistics import GateResult, GateRule, judge, plan
from tasks.statistics.levels import normal_quantile
from tasks.statistics.recurring import nightly_rules
from tasks.statistics.results import RetentionResult, TaskResult

ODD_ANSWERS, ANSWER_LENGTH = 0.05, 2.0
"""What a rule without the keys `odd_answers` and `answer_length` allows."""


def gate_rule(rule: PromotionRule) -> GateRule:
    """The numbers of the gate that a promotion rule stands for."""
    standard = GateRule()
    margin = standard.margin if rule.guard_margin is None else rule.guard_margin
    keep = standard.share if rule.keep_of_experts is None else rule.keep_of_experts
    return GateRule(
        exceed=standard.exceed if rule.exceed is None else rule.exceed,
        margin=margin,
        widest_margin=2.0 * margin if rule.widest_margin is None else rule.widest_margin,
        alpha=standard.alpha if rule.alpha is None else rule.alpha,
        share=keep or standard.share,
        retention_blocks=keep > 0,
        looks=rule.looks or 1,
    )


def nights_of(rule: PromotionRule, baselines: Sequence[str]) -> int:
    """How many runs share alpha against each baseline that stays."""
    recurring = len(baselines) > 1 and any(name in MOVING for name in baselines)
    return rule.nights or max(rule.shared_nights, NIGHTS if recurring else 1)


def rule_against(numbers: GateRule, name: str, nights: int) -> GateRule:
    """The gate's numbers against one baseline. Against one that stays, the nights share alpha."""
    return nightly_rules(numbers, nights)["champion" if name in MOVING else "anchor"]


def decide_calibrated(candidate: EvaluationReport, bar: Bar) -> Decision:
    """Judge reports that `tasks.promotion.decision.decide` has found to be comparable.

    Raises:
        StepError: they are not of the same documents.
    """
    rule, numbers = bar.rule, gate_rule(bar.rule)
    nights = nights_of(rule, [each.name for each in bar.baselines])
    first = _against(candidate, bar.baselines[0], bar, rule_against(numbers, bar.called, nights))
    found, without_origin = [first], replace(bar, origin=None)
    for other in bar.others:
        its_rule = replace(rule_against(numbers, other.name, nights), retention_blocks=False)
        against = _against(candidate, other, without_origin, its_rule)
        found.append(against.without_experts())
    same = any(
        each.baseline.report.checkpoint_digest == candidate.checkpoint_digest for each in found
    )
    verdict = _verdict([each.verdict for each in found], same)
    by_rule = verdict == "inconclusive" and rule.on_inconclusive == "promote"
    told = All(found, verdict, rule.on_inconclusive, same, nights)
    return Decision(
        verdict=verdict,
        promote=verdict == "promoted" or by_rule,
        reasons=(
            *reasons(told),
            *said_of_looks(candidate, bar.baseline),
            *said_of_batches(candidate, [each.report for each in bar.baselines]),
        ),
        comparisons=first.comparisons,
        gain=first.gate.change,
        gain_low=first.gate.low,
        gain_high=first.gate.high,
        min_gain=numbers.exceed,
        confidence=1.0 - 2.0 * first.result.level,
        documents=sum(comparison.documents for comparison in first.comparisons),
        candidate_digest=candidate.checkpoint_digest,
        baseline_digest=bar.baseline.checkpoint_digest,
        gate=first.gate,
        baseline=None if bar.called == "base" else bar.called,
        others=tuple(
            AgainstAnother(
                baseline=each.baseline.name,
                digest=each.baseline.report.checkpoint_digest,
                verdict=each.verdict,
                comparisons=each.comparisons,
                gate=each.gate,
            )
            for each in found[1:]
        )
        or None,
        nights=nights if nights > 1 else None,
    )


def _against(
    candidate: EvaluationReport,
    baseline: ComparedWith,
    bar: Bar,
    numbers: GateRule,
) -> Against:
    """Plan, judge and look at the answers of one candidate against one baseline."""
    before, rule, origin = baseline.report, bar.rule, bar.origin
    own = [expert for expert in bar.experts if expert.checkpoint_digest != before.checkpoint_digest]
    must_hold = rule.must_hold or {}
    measured = measurements(candidate, before, own, origin, must_hold)
    try:
        look = candidate.looks.taken if candidate.looks else None
        result = shown = judge(measured, numbers, look=look)
        planned = plan(measured, numbers)
    except ValueError as error:
        raise StepError(
            f"the evaluations of {candidate.reference} and {before.reference} cannot be compared:"
            f" {error}",
            where="decide",
            mend="evaluate both again with the same suite and the same data",
        ) from None
    if any(task.outcome == "invalid" for task in result.tasks):
        as_worst = measurements(candidate, before, own, origin, must_hold, nan_as_worst=True)
        shown = judge(as_worst, numbers, look=look)
    comparisons = tuple(
        _comparison(
            candidate.score(task.name),
            before.score(task.name),
            task,
            decided.outcome,
            is_part=candidate.looks is not None,
        )
        for task, decided in zip(shown.tasks, result.tasks, strict=True)
    )
    answers = compare_answers(
        candidate,
        as_far(before, candidate),
        more=ODD_ANSWERS if rule.odd_answers is None else rule.odd_answers,
        times=ANSWER_LENGTH if rule.answer_length is None else rule.answer_length,
        quantile=normal_quantile(numbers.alpha),
    )
    of_answers: dict[Outcome, Verdict] = {
        "held": "promoted",
        "unclear": "inconclusive",
        "regressed": "fell_back",
    }
    gate = _gate(shown, planned.visible_change, numbers, must_hold).model_copy(
        update={
            "answers": answers or None,
            "plan": suite_plan(planned, before, baseline.name, numbers, must_hold),
        }
    )
    verdicts = [result.verdict, *(of_answers[each.outcome] for each in answers)]
    return Against(
        baseline,
        numbers,
        result,
        planned,
        comparisons,
        gate,
        _verdict(verdicts),
        must_hold,
        uncounted(candidate, before),
    )


def _verdict(verdicts: Sequence[Verdict], same: bool = False) -> Verdict:
    """One verdict from several: any that fell back decides, and a promotion needs all of them."""
    if same or "fell_back" in verdicts:
        return "fell_back"
    return "inconclusive" if "inconclusive" in verdicts else "promoted"


def _comparison(
    score: TaskScore, before: TaskScore, task: TaskResult, outcome: str, *, is_part: bool
) -> TaskComparison:
    """A task as every table shows it, in the metric's own unit."""
    sign = 1.0 if score.higher_is_better else -1.0
    non_finite = (before.non_finite or 0, score.non_finite or 0)
    outcomes: dict[str, Outcome] = {"held": "held", "unclear": "unclear"}
    return TaskComparison(
        task=score.task,
        metric=score.metric,
        higher_is_better=score.higher_is_better,
        baseline=before.score,
        candidate=score.score,
        improvement=in_metric(before, task.unclipped_change)
        if is_part
        else sign * (score.score - before.score),
        low=in_metric(before, task.low),
        high=in_metric(before, task.high),
        max_regression=-in_metric(before, -task.margin * task.unit),
        documents=task.documents,
        outcome=outcomes.get(outcome, "regressed"),
        non_finite=non_finite if any(non_finite) else None,
        other_prompts=other_prompts(score, before) or None,
    )


def _gate(
    result: GateResult, visible: float | None, rule: GateRule, must_hold: dict[str, float]
) -> CalibratedGate:
    return CalibratedGate(
        alpha=rule.alpha,
        exceed=rule.exceed,
        change=result.primary.change,
        low=result.primary.low,
        high=result.primary.high,
        visible=visible,
        tasks=tuple(
            GuardedTask(
                task=task.name,
                unit=task.unit,
                change=task.change_units,
                low=task.low_units,
                high=task.high_units,
                margin=task.margin,
                groups=task.groups,
                gained=task.gained,
                lost=task.lost,
                share=task.share,
                must_hold=True if task.name in must_hold else None,
            )
            for task in result.tasks
        ),
        kept=tuple(
            _kept(each, rule) for each in result.retention if each.outcome != "no_certain_gain"
        ),
    )


def _kept(each: RetentionResult, rule: GateRule) -> KeptOfExpert:
    assert each.outcome != "no_certain_gain"
    return KeptOfExpert(
        task=each.task,
        expert=each.expert,
        gain=each.expert_gain,
        kept=each.kept,
        outcome=each.outcome,
        low=rule.share + each.low / each.expert_gain,
        high=rule.share + each.high / each.expert_gain,
        asked=rule.share,
    )
