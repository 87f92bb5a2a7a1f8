"""The former gate: a paired bootstrap of each task, a mean gain, and the verdict with its reasons.

It decides where a rule has one of its keys (`calibrated_keys.FORMER_KEYS`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from merge_core.errors import StepError
from tasks.promotion.bar import Bar
from tasks.promotion.bootstrap import (
    Floats,
    improvement,
    interval,
    pair,
    resampled_improvements,
)
from tasks.promotion.comparable import other_prompts, said_of_batches
from tasks.promotion.former_reasons import gain_reason, task_reason
from tasks.promotion.rule import PromotionRule
from tasks.promotion.wording import NOTHING_TO_PROMOTE, cannot_tell
from tasks.records import Decision, EvaluationReport, Outcome, TaskComparison, Verdict

SMALLEST_BASELINE = 0.01
"""A baseline score nearer to zero than this counts as this when a gain is taken relative to it."""
_TOLD_IN_ORDER: tuple[Outcome, ...] = ("regressed", "unclear", "held")
"""The order in which reasons are told."""


def decide_former(candidate: EvaluationReport, bar: Bar) -> Decision:
    """Judge reports that `tasks.promotion.decision.decide` has found to be comparable.

    Each task's improvement has a paired bootstrap interval [low, high], positive being better. With
    r the regression allowed on that task, the task

    * regressed if the candidate has more documents without a finite score than the baseline;
    * regressed if high < -r: it certainly got worse by more than is allowed;
    * held      if low >= -r: it certainly did not;
    * is unclear otherwise, and always with fewer than `min_documents` documents.

    The gain (mean over tasks of improvement / |baseline score|) has an interval of its own.

    * fell_back: any task regressed, or the gain's interval is wholly below `min_gain`, or the
      candidate is the baseline (same digest: there is nothing to promote);
    * promoted: every task held, and the gain's lower end is at least `min_gain`;
    * inconclusive: anything else; `on_inconclusive` says what to do.

    A candidate with other weights that scores alike on every document holds everywhere with a gain
    of exactly 0. So a rule that asks for no gain promotes it, and any other rule does not. The
    experts do not change the verdict.

    Raises:
        StepError: the reports are not of the same documents.
    """
    rule, baseline = bar.rule, bar.baseline
    comparisons, draws = _compare_tasks(candidate, baseline, rule)
    gain, low, high = _gain(comparisons, draws, rule.confidence)
    same = candidate.checkpoint_digest == baseline.checkpoint_digest
    outcomes = [comparison.outcome for comparison in comparisons]
    verdict = _verdict([*outcomes, _outcome(low, high, rule.min_gain)], same)
    gravest_first = sorted(comparisons, key=lambda c: _TOLD_IN_ORDER.index(c.outcome))
    reasons = [
        *([NOTHING_TO_PROMOTE] if same else []),
        *(task_reason(c, rule.confidence, rule.min_documents) for c in gravest_first),
        gain_reason(gain, low, high, rule.min_gain, rule.confidence, len(comparisons)),
    ]
    if verdict == "inconclusive":
        reasons.append(cannot_tell(rule.on_inconclusive))
    reasons += said_of_batches(candidate, [baseline])
    return Decision(
        verdict=verdict,
        promote=verdict == "promoted"
        or (verdict == "inconclusive" and rule.on_inconclusive == "promote"),
        reasons=tuple(reasons),
        comparisons=tuple(comparisons),
        gain=gain,
        gain_low=low,
        gain_high=high,
        min_gain=rule.min_gain,
        confidence=rule.confidence,
        documents=sum(comparison.documents for comparison in comparisons),
        candidate_digest=candidate.checkpoint_digest,
        baseline_digest=baseline.checkpoint_digest,
        baseline=None if bar.called == "base" else bar.called,
    )


def _compare_tasks(
    candidate: EvaluationReport, baseline: EvaluationReport, rule: PromotionRule
) -> tuple[list[TaskComparison], dict[str, Floats]]:
    comparisons, draws = [], {}
    known = {score.task: score for score in baseline.scores}
    for score in candidate.scores:
        paired = pair(score, known[score.task]) if score.task in known else None
        if paired is None:
            raise StepError(
                f"the evaluations of {candidate.reference} and {baseline.reference} are not of the"
                f" same documents in task '{score.task}'",
                where="decide",
                mend="evaluate both again with the same suite and the same data",
            )
        improvements = resampled_improvements(
            paired,
            higher_is_better=score.higher_is_better,
            resamples=rule.resamples,
            seed=rule.seed,
        )
        low, high = interval(improvements, rule.confidence)
        allowed = rule.per_task.get(score.task, rule.max_regression)
        documents = len(paired.ids)
        enough = documents >= rule.min_documents
        before = known[score.task]
        non_finite = (before.non_finite or 0, score.non_finite or 0)
        comparisons.append(
            TaskComparison(
                task=score.task,
                metric=score.metric,
                higher_is_better=score.higher_is_better,
                baseline=before.score,
                candidate=score.score,
                improvement=improvement(paired, higher_is_better=score.higher_is_better),
                low=low,
                high=high,
                max_regression=allowed,
                documents=documents,
                outcome=_task_outcome(low, high, -allowed, enough, non_finite),
                non_finite=non_finite if any(non_finite) else None,
                other_prompts=other_prompts(score, before) or None,
            )
        )
        draws[score.task] = improvements
    return comparisons, draws


def _gain(
    comparisons: Sequence[TaskComparison], draws: dict[str, Floats], confidence: float
) -> tuple[float, float, float]:
    # By name, so that sums of floats do not depend on the order of tasks.
    ordered = sorted(comparisons, key=lambda comparison: comparison.task)
    sizes = np.array([max(abs(c.baseline), SMALLEST_BASELINE) for c in ordered])
    gain = float(np.mean([c.improvement for c in ordered] / sizes))
    relative = np.stack([draws[c.task] for c in ordered]) / sizes[:, None]
    return gain, *interval(relative.mean(axis=0), confidence)


def _task_outcome(
    low: float, high: float, floor: float, enough: bool, non_finite: tuple[int, int]
) -> Outcome:
    """The outcome of a task. More answers that are no numbers than the baseline has: regressed."""
    if non_finite[1] > non_finite[0]:
        return "regressed"
    return _outcome(low, high, floor) if enough else "unclear"


def _outcome(low: float, high: float, floor: float) -> Outcome:
    if low >= floor:
        return "held"
    return "regressed" if high < floor else "unclear"


def _verdict(outcomes: Sequence[Outcome], same: bool) -> Verdict:
    if same or "regressed" in outcomes:
        return "fell_back"
    return "inconclusive" if "unclear" in outcomes else "promoted"
