"""The calibrated gate: stored evaluations in, the statistics' verdict with its reasons out.

Imported only where a rule asks for it: the statistics load scipy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath

from merge_core.errors import StepError
from tasks.promotion.bootstrap import other_prompts
from tasks.promotion.calibrated_reasons import reasons
from tasks.promotion.rule import PromotionRule
from tasks.promotion.task_measurements import UnlikeDocumentsError, measurement
from tasks.records import (
    CalibratedGate,
    Decision,
    EvaluationReport,
    GuardedTask,
    KeptOfExpert,
    Outcome,
    TaskComparison,
    TaskScore,
)
from tasks.statistics import GateResult, GateRule, TaskMeasurement, judge, plan
from tasks.statistics.results import TaskResult


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
    )


def decide_calibrated(
    candidate: EvaluationReport,
    baseline: EvaluationReport,
    rule: PromotionRule,
    experts: Sequence[EvaluationReport] = (),
) -> Decision:
    """Judge reports that `tasks.promotion.rule.decide` has found to be comparable.

    Raises:
        StepError: they are not of the same documents.
    """
    numbers = gate_rule(rule)
    measured = _measurements(candidate, baseline, experts)
    try:
        result = shown = judge(measured, numbers)
        planned = plan(measured, numbers)
    except ValueError as error:
        raise StepError(
            f"the evaluations of {candidate.reference} and {baseline.reference} cannot be compared:"
            f" {error}",
            where="decide",
            mend="evaluate both again with the same suite and the same data",
        ) from None
    if any(task.outcome == "invalid" for task in result.tasks):
        shown = judge(_measurements(candidate, baseline, experts, nan_as_worst=True), numbers)
    comparisons = tuple(
        _comparison(candidate.score(task.name), baseline.score(task.name), task, decided.outcome)
        for task, decided in zip(shown.tasks, result.tasks, strict=True)
    )
    gate = _gate(shown, planned.visible_change, numbers)
    same = candidate.checkpoint_digest == baseline.checkpoint_digest
    verdict = "fell_back" if same else result.verdict
    by_rule = verdict == "inconclusive" and rule.on_inconclusive == "promote"
    return Decision(
        verdict=verdict,
        promote=verdict == "promoted" or by_rule,
        reasons=reasons(result, comparisons, gate, planned, numbers, rule.on_inconclusive, same),
        comparisons=comparisons,
        gain=gate.change,
        gain_low=gate.low,
        gain_high=gate.high,
        min_gain=numbers.exceed,
        confidence=1.0 - 2.0 * result.level,
        documents=sum(comparison.documents for comparison in comparisons),
        candidate_digest=candidate.checkpoint_digest,
        baseline_digest=baseline.checkpoint_digest,
        gate=gate,
    )


def _measurements(
    candidate: EvaluationReport,
    baseline: EvaluationReport,
    experts: Sequence[EvaluationReport],
    *,
    nan_as_worst: bool = False,
) -> list[TaskMeasurement]:
    """Every task, in the candidate's order."""
    named = _named(experts)
    found = []
    for score in candidate.scores:
        try:
            theirs = {name: expert.score(score.task) for name, expert in named.items()}
            before = baseline.score(score.task)
            found.append(measurement(score, before, theirs, nan_as_worst=nan_as_worst))
        except (UnlikeDocumentsError, KeyError) as error:
            why = str(error) if isinstance(error, ValueError) else "do not all have scores"
            raise StepError(
                f"the evaluations of {candidate.reference}, of {baseline.reference} and of the"
                f" experts {why} in task '{score.task}'",
                where="decide",
                mend="evaluate all again with the same suite and the same data",
            ) from None
    return found


def _named(experts: Sequence[EvaluationReport]) -> Mapping[str, EvaluationReport]:
    """Experts by a short name, each of the same weights once."""
    distinct = list({expert.checkpoint_digest: expert for expert in experts}.values())
    names = [PurePath(expert.reference).name or expert.reference for expert in distinct]
    return {
        name if names.count(name) == 1 else f"{name} ({expert.checkpoint_digest[:8]})": expert
        for name, expert in zip(names, distinct, strict=True)
    }


def _comparison(
    score: TaskScore, before: TaskScore, task: TaskResult, outcome: str
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
        improvement=sign * (score.score - before.score),
        low=_in_metric(before, task.low),
        high=_in_metric(before, task.high),
        max_regression=-_in_metric(before, -task.margin * task.unit),
        documents=task.documents,
        outcome=outcomes.get(outcome, "regressed"),
        non_finite=non_finite if any(non_finite) else None,
        other_prompts=other_prompts(score, before) or None,
    )


def _in_metric(before: TaskScore, change: float) -> float:
    """A change of documents' values as one of the score: perplexities are powers of the bits."""
    if before.scale == "power_of_two":
        return float(before.score * (1.0 - 2.0**-change))
    return change


def _gate(result: GateResult, visible: float | None, rule: GateRule) -> CalibratedGate:
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
            )
            for task in result.tasks
        ),
        kept=tuple(
            KeptOfExpert(
                task=each.task,
                expert=each.expert,
                gain=each.expert_gain,
                kept=each.kept,
                outcome=each.outcome,
            )
            for each in result.retention
            if each.outcome != "no_certain_gain"
        ),
    )
