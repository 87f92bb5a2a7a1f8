"""Decide whether a candidate may replace its baselines: checks first, then the gate of its rule."""

from __future__ import annotations

from collections.abc import Sequence

from merge_core.errors import RecipeError, StepError, did_you_mean
from tasks.promotion.bar import Bar
from tasks.promotion.comparable import check_comparable, check_looks
from tasks.promotion.former import decide_former
from tasks.promotion.rule import PromotionRule
from tasks.records import Decision, EvaluationReport

_FEW_NON_FINITE = 0.01
"""Share of a task's documents for which a baseline may have no finite score."""


def decide(candidate: EvaluationReport, bar: Bar) -> Decision:
    """Decide whether a candidate may replace the baseline, by the gate that its rule names.

    The calibrated gate is `calibrated.decide_calibrated`, the former one `former.decide_former`. A
    candidate that could not be evaluated fell back, whatever the rule says.

    Raises:
        StepError: reports are not comparable, or a baseline has no finite score for more than 1 %
            of a task's documents.
        RecipeError: the rule names a task that the suite does not have.
    """
    rule, baseline = bar.rule, bar.baseline
    baselines = [each.report for each in bar.baselines]
    for other in (*baselines, *bar.experts, *([bar.origin] if bar.origin else [])):
        check_comparable(candidate, other)
    check_looks(candidate, bar)
    check_tasks(rule, [score.task for score in baseline.scores], candidate.suite)
    for one in baselines:
        _check_finite(one)
    if candidate.failure is not None:
        return _without_scores(candidate, bar)
    if rule.gate == "calibrated":
        from tasks.promotion.calibrated import decide_calibrated  # scipy is slow to import

        return decide_calibrated(candidate, bar)
    return decide_former(candidate, bar)


def check_tasks(rule: PromotionRule, tasks: Sequence[str], suite: str) -> None:
    """Refuse a rule for a task that is not there.

    Raises:
        RecipeError: names the key, and what was probably meant.
    """
    for key, named in (("per_task", rule.per_task), ("must_hold", rule.must_hold or {})):
        for name in named:
            if name not in tasks:
                raise RecipeError(
                    f"suite '{suite}' has no task '{name}'",
                    where=f"promote.{key}.{name}",
                    mend=did_you_mean(name, tasks),
                )


def _without_scores(candidate: EvaluationReport, bar: Bar) -> Decision:
    """A candidate that could not be evaluated is not promoted, whatever the rule says."""
    return Decision(
        verdict="fell_back",
        promote=False,
        reasons=(f"the merged checkpoint could not be evaluated: {candidate.failure}",),
        comparisons=(),
        gain=0.0,
        gain_low=0.0,
        gain_high=0.0,
        min_gain=bar.rule.min_gain,
        confidence=bar.rule.confidence,
        documents=0,
        candidate_digest=candidate.checkpoint_digest,
        baseline_digest=bar.baseline.checkpoint_digest,
        baseline=None if bar.called == "base" else bar.called,
    )


def _check_finite(baseline: EvaluationReport) -> None:
    """Refuse a baseline whose own scores are no numbers: whatever is compared with it looks good.

    Raises:
        StepError: names the task, and how many of its documents.
    """
    for score in baseline.scores:
        documents = len(score.doc_ids)
        if (score.non_finite or 0) > _FEW_NON_FINITE * documents:
            raise StepError(
                f"{baseline.reference} has no finite {score.metric} for {score.non_finite} of"
                f" {documents} documents of the task '{score.task}'",
                where="decide",
                mend="a baseline that answers NaN cannot be compared with: look at its weights with"
                " `mergeflow verify`, at the suite's metric and at settings.dtype",
            )
