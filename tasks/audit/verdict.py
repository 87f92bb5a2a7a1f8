"""The decision, made again from the values of the documents by the rule of the run."""

from __future__ import annotations

import math

from pydantic import ValidationError

from merge_core.errors import MergeflowError
from tasks.audit.decided_by import DecidedBy, decided_by
from tasks.audit.evidence import Evidence
from tasks.audit.report import Answers
from tasks.promotion.baselines import ComparedWith
from tasks.promotion.decision import decide
from tasks.promotion.rule import PromotionRule
from tasks.records import Decision, EvaluationReport
from tasks.registry.client import TAG

_CLOSE = 1e-9


def check(evidence: Evidence, answers: Answers) -> None:
    """Verdict, comparisons and gain are what the rule gives, and run and metrics say the same."""
    made, run = evidence.decision, evidence.run
    if run is None:
        answers.unknown("there is no run that a decision belongs to")
        return
    if made is None:
        answers.fails("the run's decision.json is missing, or cannot be read")
        return
    answers.same(
        "the run's verdict", run.data.tags.get(TAG + "verdict"), made.verdict, "the decision"
    )
    promoted = str(made.promote).lower()
    answers.same(
        "the run's tag promote", run.data.tags.get(TAG + "promote"), promoted, "the decision"
    )
    answers.same("the decision's candidate", made.candidate_digest, evidence.digest, "the version")
    _metrics(evidence, made, answers)
    merged = evidence.report_of(made.candidate_digest)
    base = evidence.report_of(made.baseline_digest)
    if merged is None or base is None:
        answers.unknown("the decision cannot be made again: an evaluation is gone")
        return
    kept = evidence.decided_by
    try:
        again = _again(evidence, kept or _rebuilt(evidence, made), merged, base)
    except (MergeflowError, ValidationError) as error:
        answers.fails(f"the rule gives no decision on these evaluations: {error}")
        return
    if again is None:
        answers.unknown("the decision cannot be made again: its rule, or an evaluation, is gone")
        return
    different = _differences(made, again)
    if different and kept is None:
        answers.unknown(f"a rule that was rebuilt from the run gives another {different[0]}")
    elif different:
        answers.fails(f"the rule of the run gives another decision: {'; '.join(different[:3])}")
    if not different and not answers.failed:
        how = "the rule of the run" if kept else "a rule that was rebuilt from the run"
        answers.holds(f"{how} gives the same decision again: {made.verdict.replace('_', ' ')}")


def _again(
    evidence: Evidence, by: DecidedBy | None, merged: EvaluationReport, base: EvaluationReport
) -> Decision | None:
    """The decision, made from the documents; None where something that it needs is gone."""
    if by is None:
        return None
    experts = [evidence.report_of(digest) for digest in by.experts]
    others = [(other.name, evidence.report_of(other.digest)) for other in by.others]
    origin = evidence.report_of(by.origin) if by.origin else None
    here = [report for report in experts if report is not None]
    compared = [ComparedWith(name=name, report=each) for name, each in others if each is not None]
    if (len(here), len(compared), origin is None) != (len(experts), len(others), by.origin is None):
        return None
    return decide(
        merged,
        base,
        by.promotion_rule,
        here,
        called=by.called,
        others=compared,
        origin=origin,
    )


def _differences(made: Decision, again: Decision) -> list[str]:
    """In what two decisions differ; a person's word may turn a promotion down."""
    found = []
    declined = made.approval is not None and not made.approval.approved
    if not declined and (made.verdict, made.promote) != (again.verdict, again.promote):
        found.append(f"verdict: {again.verdict}, not {made.verdict}")
    if declined and (made.promote or not again.promote):
        found.append("verdict: a person declined what the rule does not promote")
    before = {each.task: each for each in made.comparisons}
    now = {each.task: each for each in again.comparisons}
    if before.keys() != now.keys():
        found.append(f"tasks: {sorted(before.keys() ^ now.keys())[0]} is in one of them")
    for task in before.keys() & now.keys():
        one, other = before[task], now[task]
        for field in ("baseline", "candidate", "improvement", "low", "high", "max_regression"):
            if not _alike(getattr(one, field), getattr(other, field)):
                said = getattr(one, field)
                found.append(f"{task}: {field} {getattr(other, field):.6g}, not {said:.6g}")
        if one.outcome != other.outcome:
            found.append(f"{task}: {other.outcome}, not {one.outcome}")
    for field in ("gain", "gain_low", "gain_high", "min_gain", "confidence"):
        if not _alike(getattr(made, field), getattr(again, field)):
            found.append(f"{field} {getattr(again, field):.6g}, not {getattr(made, field):.6g}")
    return found


def _rebuilt(evidence: Evidence, made: Decision) -> DecidedBy | None:
    """What a decision was made by, as far as it tells; of the former gate only."""
    if made.gate is not None:
        return None
    allowed = {each.task: each.max_regression for each in made.comparisons}
    rule = PromotionRule(
        min_gain=made.min_gain, confidence=made.confidence, per_task=allowed, gate="former"
    )
    experts = [each.report for each in evidence.evaluations if each.role.startswith("expert/")]
    return decided_by(rule, "base", [each for each in experts if each is not None], (), None)


def _metrics(evidence: Evidence, made: Decision, answers: Answers) -> None:
    metrics = evidence.run.data.metrics if evidence.run else {}
    for name in ("gain", "gain_low", "gain_high"):
        said = metrics.get(name)
        if said is None or not _alike(said, getattr(made, name)):
            answers.fails(
                f"the metric {name} is {said}, the decision says {getattr(made, name):.6g}"
            )


def _alike(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_CLOSE, abs_tol=1e-12)
