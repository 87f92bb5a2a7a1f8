"""Base, experts and merged side by side, with the decision: one table wherever it is shown."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from merge_core.text.markdown import Markdown, code, inline, table
from merge_core.text.plain import LONGEST
from tasks.evaluation.odd_answers import odd_answers
from tasks.promotion.headline import headline
from tasks.promotion.wording import number
from tasks.records import Decision, EvaluationReport, Registration
from tasks.reports.names import distinct_names
from tasks.reports.serving import Serving
from tasks.roles import MERGE, Roles

TYPED_NAME = "An approval is by the name that somebody typed who had the servers' password."


@dataclass(frozen=True)
class ComparisonRow:
    """One task: everyone's score and what it means for the merged checkpoint."""

    task: str
    metric: str
    higher_is_better: bool
    base: float
    experts: tuple[float, ...]
    merged: float
    improvement: float
    low: float
    high: float
    outcome: str
    best_expert_gain_kept: float | None
    """Merged's improvement over base as a share of the best expert's; None if none improves."""


def comparison_rows(
    decision: Decision,
    base: EvaluationReport,
    experts: Sequence[EvaluationReport],
    candidate: EvaluationReport,
) -> list[ComparisonRow]:
    """One row for each task, in the suite's order."""
    rows = []
    for comparison in decision.comparisons:
        task = comparison.task
        sign = 1 if comparison.higher_is_better else -1
        scores = tuple(expert.score(task).score for expert in experts)
        before = base.score(task).score
        best = max((sign * (score - before) for score in scores), default=0.0)
        rows.append(
            ComparisonRow(
                task=task,
                metric=comparison.metric,
                higher_is_better=comparison.higher_is_better,
                base=before,
                experts=scores,
                merged=candidate.score(task).score,
                improvement=comparison.improvement,
                low=comparison.low,
                high=comparison.high,
                outcome=comparison.outcome,
                best_expert_gain_kept=comparison.improvement / best if best > 0 else None,
            )
        )
    return rows


def column_names(experts: Sequence[EvaluationReport]) -> list[str]:
    """Short, distinct names: as little of the end of each expert's reference as it takes."""
    return distinct_names([expert.reference for expert in experts])


def decision_markdown(
    decision: Decision,
    base: EvaluationReport,
    experts: Sequence[EvaluationReport],
    candidate: EvaluationReport,
    roles: Roles = MERGE,
    picture: bytes | None = None,
) -> str:
    """The decision with its reasons, then the scores side by side.

    Args:
        picture: a PNG of the intervals, which travels inside the page.
    """
    rows = comparison_rows(decision, base, experts, candidate)
    gate = decision.gate
    lines = [
        f"## {headline(decision, roles.the_candidate, roles.the_baseline)}",
        "",
        *(f"* {inline(reason, LONGEST)}" for reason in decision.reasons),
    ]
    if not rows:
        return "\n".join(lines) + "\n"
    if picture is not None:
        inside = base64.b64encode(picture).decode()
        lines += ["", f"![each interval against its limit](data:image/png;base64,{inside})"]
    lines += [
        "",
        *_scores(rows, column_names(experts), roles),
        "",
        *_changes(rows, with_experts=bool(experts), may_lose=_may_lose(decision) if gate else None),
    ]
    confidence = f"{100 * decision.confidence:g}"
    how = "paired bootstrap over" if gate is None else "calibrated gate,"
    lines += [
        "",
        f"Change and its {confidence} % interval ({how} {decision.documents}"
        f" documents): positive is better. Suite {code(candidate.suite)}, lm-eval"
        f" {inline(candidate.lm_eval_version)} on {inline(candidate.device)}."
        f" {roles.candidate.capitalize()} {code(candidate.checkpoint_digest[:12])},"
        f" {roles.baseline} {code(base.checkpoint_digest[:12])}.",
    ]
    if decision.approval is not None and decision.approval.by is not None:
        lines += ["", TYPED_NAME]
    names = [roles.baseline, *column_names(experts), roles.candidate]
    named = zip(names, (base, *experts, candidate), strict=True)
    odd = [
        f"* {inline(name)}: {inline(line, LONGEST)}" for name, r in named for line in odd_answers(r)
    ]
    if odd:
        lines += ["", "What went oddly in the evaluations:", "", *odd]
    return "\n".join(lines) + "\n"


def _scores(rows: Sequence[ComparisonRow], experts: Sequence[str], roles: Roles) -> list[str]:
    """Everyone's scores. Their meaning has a table of its own: one table for both is too wide."""
    head = ["task", "metric", roles.baseline, *experts, roles.candidate]
    cells = []
    for row in rows:
        metric = f"{row.metric} {'↑' if row.higher_is_better else '↓'}"
        scores = [f"{score:.4g}" for score in (row.base, *row.experts)]
        cells.append([row.task, metric, *scores, Markdown(f"**{row.merged:.4g}**")])
    return table(head, cells, ("task", "metric"))


def _may_lose(decision: Decision) -> list[str]:
    return [number(comparison.max_regression) for comparison in decision.comparisons]


def _changes(
    rows: Sequence[ComparisonRow], *, with_experts: bool, may_lose: Sequence[str] | None = None
) -> list[str]:
    """The change, interval and outcome of each task.

    Args:
        may_lose: for each row what may be lost, where it was measured rather than written.
    """
    kept = ["of the best expert's gain"] if with_experts else []
    lines = []
    for index, row in enumerate(rows):
        share = row.best_expert_gain_kept
        cells = [
            row.task,
            _signed(row.improvement),
            f"{_signed(row.low)} to {_signed(row.high)}",
            *([may_lose[index]] if may_lose else []),
            row.outcome,
        ]
        if with_experts:
            cells.append("-" if share is None else f"{100 * share:.0f} %")
        lines.append(cells)
    allowed = ["may lose"] if may_lose else []
    head = ["task", "change", "interval", *allowed, "outcome", *kept]
    return table(head, lines, ("task", "outcome"))


def serving_markdown(answer: str, registration: Registration) -> str:
    """The checkpoint that the run answers, and the alias's: they may differ after a fall-back."""
    champion = registration.champion
    alias = f"models:/{champion.name}@champion"
    lines = [
        "## What serves",
        "",
        f"* This run answers: serve {code(answer)}.",
        f"* {code(alias)} is version {inline(champion.version)}, digest"
        f" {code(champion.digest[:12])}.",
    ]
    if registration.champion_stays:
        lines.append(f"* It keeps the alias: {inline(registration.champion_stays, LONGEST)}.")
        if registration.candidate.version != champion.version:
            candidate = f"models:/{registration.candidate.name}/{registration.candidate.version}"
            lines.append(f"* This run's merge is {code(candidate)}.")
    return "\n".join(lines) + "\n"


def unserved(decision: Decision, registration: Registration | None) -> str | None:
    """Why a merge that is better does not serve; None where it does, or is not better."""
    if registration is None or not (decision.promote and registration.champion_stays):
        return None
    candidate, champion = registration.candidate, registration.champion
    return (
        f"models:/{candidate.name}/{candidate.version} is better and registered, and the alias"
        f" stays with version {champion.version}: {registration.champion_stays}"
    )


def question_markdown(
    decision: Decision,
    base: EvaluationReport,
    experts: Sequence[EvaluationReport],
    candidate: EvaluationReport,
    roles: Roles = MERGE,
    serving: Serving | None = None,
) -> str:
    """The question to a person who has to approve: the reasons, and the scores in a narrow table.

    Args:
        serving: the version that holds the alias now, if one does.
    """
    replaced = f"{serving.address}, which serves now" if serving else roles.the_baseline
    lines = [
        f"## May {roles.the_candidate} replace {inline(replaced)}?",
        "",
        *(f"* {inline(reason, LONGEST)}" for reason in decision.reasons),
        "",
    ]
    serves = known_scores(serving, (base, *experts)) if serving else {}
    rows = []
    for row in comparison_rows(decision, base, experts, candidate):
        scores = [f"{row.base:.4g}", Markdown(f"**{row.merged:.4g}**"), _signed(row.improvement)]
        now = [f"{serves[row.task]:.4g}" if row.task in serves else "-"] if serves else []
        rows.append([row.task, *scores, *now, *(f"{score:.4g}" for score in row.experts)])
    now_head = ["serves now"] if serves else []
    names = [*now_head, *column_names(experts)]
    lines += table(["task", roles.baseline, roles.candidate, "change", *names], rows, ("task",))
    lines += [
        "",
        f"Change: against {roles.the_baseline}; positive is better, in"
        f" {inline(_metrics(decision))}.",
        "",
    ]
    if serving and not serves:
        lines += [f"{inline(serving.address)} has no recorded scores on this suite.", ""]
    return "\n".join([*lines, TYPED_NAME]) + "\n"


def known_scores(serving: Serving, reports: Sequence[EvaluationReport]) -> Mapping[str, float]:
    """Score by task of the version that serves: of this run, else as it was recorded."""
    for report in reports:
        if report.checkpoint_digest == serving.digest:
            return {score.task: score.score for score in report.scores}
    return serving.scores


def _metrics(decision: Decision) -> str:
    return ", ".join(dict.fromkeys(comparison.metric for comparison in decision.comparisons))


def _signed(value: float) -> str:
    return ("+" if value > 0 else "-" if value < 0 else "") + number(abs(value))
