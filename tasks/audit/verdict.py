"""The decision, made again from the values of the documents by the rule of the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from merge_core.errors import MergeflowError
from tasks.audit.evidence import Evidence, says_twice
from tasks.audit.report import Answers
from tasks.promotion.bar import Bar
from tasks.promotion.baselines import Compared
from tasks.promotion.decision import decide
from tasks.promotion.rule import PromotionRule
from tasks.records import AgainstAnother, Decision, EvaluationReport
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
    reports = {each.role: each.report for each in evidence.evaluations if each.report is not None}
    merged, base = reports.get("merged"), reports.get("base") or reports.get("merged")
    if merged is None or base is None:
        answers.unknown("the decision cannot be made again: an evaluation is gone")
        return
    if not _can_be_read(evidence, answers):
        return
    compared = evidence.compared
    if compared is None:
        if made.baselines != ("base",):
            answers.unknown("the decision cannot be made again: its baselines were not kept")
            return
        of_experts = [each.checkpoint_digest for role, each in reports.items() if "/" in role]
        compared = Compared(
            baseline_digest=base.checkpoint_digest, expert_digests=tuple(of_experts)
        )
    known = {each.checkpoint_digest: each for each in reports.values()}
    missing = [d for d in (compared.baseline_digest, *compared.expert_digests) if d not in known]
    if missing:
        answers.unknown("the decision cannot be made again: an evaluation is gone")
        return
    _again(evidence, made, merged, known, compared, answers)


def _can_be_read(evidence: Evidence, answers: Answers) -> bool:
    """Whether the files that decide say one thing. Where one says what nobody wrote there, nothing
    is rebuilt in its place: that would hide the edit. Runs of before had other rules."""
    sound = True
    for name, read in (("rule.json", evidence.rule), ("compared.json", evidence.compared)):
        content = evidence.file(name)
        if says_twice(content):
            answers.fails(f"the run's {name} is no JSON, or says something twice")
        elif content is not None and read is None and evidence.is_listed:
            answers.fails(f"the run's {name} says what mergeflow never writes there")
        else:
            continue
        sound = False
    return sound


def _again(
    evidence: Evidence,
    made: Decision,
    merged: EvaluationReport,
    known: Mapping[str, EvaluationReport],
    compared: Compared,
    answers: Answers,
) -> None:
    rule = evidence.rule or _rebuilt(made)
    if rule is None:
        answers.unknown("the decision cannot be made again: its rule was not kept")
        return
    try:
        bar = Bar(
            rule,
            known[compared.baseline_digest],
            compared.called,
            [known[digest] for digest in compared.expert_digests],
            compared.others,
            compared.origin,
        )
        again = decide(merged, bar)
    except MergeflowError as error:
        answers.fails(f"the rule gives no decision on these evaluations: {error.what}")
        return
    except ValueError:  # of a result that is no number
        answers.fails("the rule gives no decision on these evaluations: their values are too large")
        return
    different = _differences(made, again)
    if different and evidence.rule is None:
        answers.unknown(
            f"the rule was not kept; rebuilt from the run's parameters it gives another"
            f" {different[0]}"
        )
    elif different:
        answers.fails(f"the rule of the run gives another decision: {'; '.join(different[:3])}")
    if not different and not answers.failed:
        how = "the rule of the run" if evidence.rule else "the rule, rebuilt from its parameters,"
        answers.holds(f"{how} gives the same decision again: {made.verdict.replace('_', ' ')}")


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
    if len(made.comparisons) != len(again.comparisons):
        found.append(f"tasks: {len(again.comparisons)}, not {len(made.comparisons)}")
    for task in before.keys() & now.keys():
        one, other = before[task], now[task]
        for field in ("baseline", "candidate", "improvement", "low", "high", "max_regression"):
            if not _alike(getattr(one, field), getattr(other, field)):
                said = getattr(one, field)
                found.append(f"{task}: {field} {getattr(other, field):.6g}, not {said:.6g}")
        if one.outcome != other.outcome:
            found.append(f"{task}: {other.outcome}, not {one.outcome}")
    for field in ("candidate_digest", "baseline_digest", "documents", "nights"):
        if getattr(made, field) != getattr(again, field):
            found.append(f"{field}: {getattr(again, field)}, not {getattr(made, field)}")
    found += _unlike("gate", _measured(made), _measured(again))
    for field in ("gain", "gain_low", "gain_high", "min_gain", "confidence"):
        if not _alike(getattr(made, field), getattr(again, field)):
            found.append(f"{field} {getattr(again, field):.6g}, not {getattr(made, field):.6g}")
    if made.baselines != again.baselines:
        found.append(f"baselines: {', '.join(again.baselines)}, not {', '.join(made.baselines)}")
    for former, present in zip(made.others or (), again.others or (), strict=False):
        if (former.digest, former.verdict) != (present.digest, present.verdict):
            found.append(f"against {present.baseline}: {present.verdict}, not {former.verdict}")
        found += _unlike(f"against {present.baseline}", _measured(former), _measured(present))
    return found


def _measured(made: Decision | AgainstAnother) -> Any:
    """What the calibrated gate found. Its plan is left out: versions differ in how they plan."""
    return made.gate.model_dump(mode="json", exclude={"plan", "visible"}) if made.gate else None


def _unlike(where: str, one: Any, other: Any) -> list[str]:
    """Places at which two values differ; what only one of two versions writes is no difference."""
    if one is None or other is None:
        return []
    if isinstance(one, dict) and isinstance(other, dict):
        shared = [key for key in one if key in other]
        return [each for key in shared for each in _unlike(f"{where}.{key}", one[key], other[key])]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [each for at, (a, b) in pairs for each in _unlike(f"{where}.{at}", a, b)]
    if isinstance(one, float | int) and isinstance(other, float | int):
        return [] if _alike(one, other) else [f"{where}: {other:.6g}, not {one:.6g}"]
    return [] if one == other else [f"{where}: {other}, not {one}"]


def _rebuilt(made: Decision) -> PromotionRule | None:
    """The rule of a run that did not keep it, as far as its decision tells it."""
    if made.gate is not None:
        return None
    allowed = {each.task: each.max_regression for each in made.comparisons}
    return PromotionRule(
        min_gain=made.min_gain, confidence=made.confidence, per_task=allowed, gate="former"
    )


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
