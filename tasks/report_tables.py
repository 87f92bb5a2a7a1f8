"""Base, experts and merged side by side, with the decision: one table wherever it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from merge_core.markdown import Markdown, code, inline, table
from merge_core.plain_text import LONGEST
from tasks.odd_answers import odd_answers
from tasks.reasons import number
from tasks.records import Decision, EvaluationReport, Registration
from tasks.reference_names import distinct_names

_HEADLINES = {
    "promoted": "Promoted: the merged checkpoint replaces the base",
    "fell_back": "Fell back: the base stays",
    "inconclusive": "Inconclusive",
}
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
) -> str:
    """The decision with its reasons, then the scores side by side."""
    headline = _HEADLINES[decision.verdict]
    if decision.verdict == "inconclusive":
        headline += ": the merged checkpoint is taken" if decision.promote else ": the base stays"
    rows = comparison_rows(decision, base, experts, candidate)
    lines = [
        f"## {headline}",
        "",
        *(f"* {inline(reason, LONGEST)}" for reason in decision.reasons),
    ]
    if not rows:
        return "\n".join(lines) + "\n"
    lines += [
        "",
        *_scores(rows, column_names(experts)),
        "",
        *_changes(rows, with_experts=bool(experts)),
    ]
    confidence = f"{100 * decision.confidence:g}"
    lines += [
        "",
        f"Change and its {confidence} % interval (paired bootstrap over {decision.documents}"
        f" documents): positive is better. Suite {code(candidate.suite)}, lm-eval"
        f" {inline(candidate.lm_eval_version)} on {inline(candidate.device)}. Merged"
        f" {code(candidate.checkpoint_digest[:12])}, base {code(base.checkpoint_digest[:12])}.",
    ]
    if decision.approval is not None and decision.approval.by is not None:
        lines += ["", TYPED_NAME]
    names = ["base", *column_names(experts), "merged"]
    named = zip(names, (base, *experts, candidate), strict=True)
    odd = [
        f"* {inline(name)}: {inline(line, LONGEST)}" for name, r in named for line in odd_answers(r)
    ]
    if odd:
        lines += ["", "What went oddly in the evaluations:", "", *odd]
    return "\n".join(lines) + "\n"


def _scores(rows: Sequence[ComparisonRow], experts: Sequence[str]) -> list[str]:
    """Everyone's scores. What they mean is a table of its own: one of both is too wide a page."""
    head = ["task", "metric", "base", *experts, "merged"]
    cells = []
    for row in rows:
        metric = f"{row.metric} {'↑' if row.higher_is_better else '↓'}"
        scores = [f"{score:.4g}" for score in (row.base, *row.experts)]
        cells.append([row.task, metric, *scores, Markdown(f"**{row.merged:.4g}**")])
    return table(head, cells, ("task", "metric"))


def _changes(rows: Sequence[ComparisonRow], *, with_experts: bool) -> list[str]:
    kept = ["of the best expert's gain"] if with_experts else []
    lines = []
    for row in rows:
        share = row.best_expert_gain_kept
        cells = [
            row.task,
            _signed(row.improvement),
            f"{_signed(row.low)} to {_signed(row.high)}",
            row.outcome,
        ]
        if with_experts:
            cells.append("-" if share is None else f"{100 * share:.0f} %")
        lines.append(cells)
    return table(["task", "change", "interval", "outcome", *kept], lines, ("task", "outcome"))


def serving_markdown(answer: str, registration: Registration) -> str:
    """What the run answers, and what the alias serves: after a fall-back they may be two things."""
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
        lines.append(f"* It keeps the alias: {inline(registration.champion_stays)}.")
    return "\n".join(lines) + "\n"


def question_markdown(
    decision: Decision,
    base: EvaluationReport,
    experts: Sequence[EvaluationReport],
    candidate: EvaluationReport,
) -> str:
    """What a person is shown who has to approve: the reasons, and the scores in a narrow table."""
    names = column_names(experts)
    lines = [
        "## May the merged checkpoint replace the base?",
        "",
        *(f"* {inline(reason, LONGEST)}" for reason in decision.reasons),
        "",
    ]
    rows = []
    for row in comparison_rows(decision, base, experts, candidate):
        scores = [f"{row.base:.4g}", Markdown(f"**{row.merged:.4g}**"), _signed(row.improvement)]
        rows.append([row.task, *scores, *(f"{score:.4g}" for score in row.experts)])
    lines += table(["task", "base", "merged", "change", *names], rows, ("task",))
    lines += ["", f"Change: positive is better, in {inline(_metrics(decision))}.", "", TYPED_NAME]
    return "\n".join(lines) + "\n"


def _metrics(decision: Decision) -> str:
    return ", ".join(dict.fromkeys(comparison.metric for comparison in decision.comparisons))


def _signed(value: float) -> str:
    return ("+" if value > 0 else "-" if value < 0 else "") + number(abs(value))
