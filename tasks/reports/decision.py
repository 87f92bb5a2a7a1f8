"""Base, experts and merged side by side, with the decision: one table wherever it is shown."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from merge_core.text.markdown import Markdown, code, inline, table
from merge_core.text.plain import LONGEST
from tasks.evaluation.odd_answers import odd_answers
from tasks.promotion.headline import headline
from tasks.promotion.wording import number, unit_of_documents
from tasks.records import Decision, EvaluationReport, Registration, TaskComparison
from tasks.reports.lost_most import lost_most_lines
from tasks.reports.names import distinct_names
from tasks.reports.next_steps import next_steps
from tasks.reports.serving import Serving
from tasks.roles import MERGE, Roles
from tasks.statistics.mcnemar import mcnemar_p

TYPED_NAME = "An approval is by the name that somebody typed who had the servers' password."

OUTCOMES = {
    "held": "held",
    "unclear": "may have lost too much",
    "regressed": "lost too much",
}
"""An outcome as pages say it."""
_CUT_OFF = "cut off"


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

    mark: str = ""
    """Why the interval need not hold the change: documents in it were cut off, or left out."""


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
                mark=_interval_mark(comparison) if decision.gate else "",
            )
        )
    return rows


def _interval_mark(comparison: TaskComparison) -> str:
    """Why an interval of the calibrated gate does not hold the change; nothing where it does."""
    if comparison.low <= comparison.improvement <= comparison.high:
        return ""
    left_out = (comparison.non_finite or (0, 0))[0]
    return f"without {left_out} of them" if left_out else _CUT_OFF


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
    *,
    name: str | None = None,
    warnings: Sequence[str] = (),
) -> str:
    """The decision with its reasons, what to do next, then the scores side by side.

    Args:
        picture: a PNG of the intervals, which travels inside the page.
        name: of the pipeline, as the page's title.
        warnings: what the recipe was warned of before the merge.
    """
    rows = comparison_rows(decision, base, experts, candidate)
    names = column_names(experts)
    gate = decision.gate
    lines = [
        *([f"# {inline(name)}", ""] if name else []),
        f"## {headline(decision, roles.the_candidate, roles.the_baseline)}",
        "",
        *(f"* {inline(reason, LONGEST)}" for reason in decision.reasons),
    ]
    if not rows:
        return "\n".join(lines) + "\n"
    if steps := next_steps(decision, warnings, is_average=roles.is_average):
        lines += ["", "What to try next:", "", *(f"* {inline(step, LONGEST)}" for step in steps)]
    if picture is not None:
        inside = base64.b64encode(picture).decode()
        lines += ["", f"![each interval against its limit](data:image/png;base64,{inside})"]
    lines += [
        "",
        *_scores(rows, names, roles),
        "",
        *_changes(rows, roles, names, may_lose=_may_lose(decision) if gate else None),
    ]
    wrong = number(100 - 100 * decision.confidence)
    how = "paired bootstrap over" if gate is None else "the calibrated gate on all"
    lines += [
        "",
        f"Change: positive is better. Interval: where the change surely is, but for {wrong} of 100"
        f" evaluations ({how} {decision.documents} documents){_marks_words(rows, roles)}."
        f"{_kept_words(rows, experts, is_calibrated=gate is not None)}",
        "",
        f"Suite {code(candidate.suite)}, lm-eval {inline(candidate.lm_eval_version)} on"
        f" {inline(candidate.device)}."
        f" {roles.candidate.capitalize()} {code(candidate.checkpoint_digest[:12])},"
        f" {roles.baseline} {code(base.checkpoint_digest[:12])}.",
    ]
    if decision.approval is not None and decision.approval.by is not None:
        lines += ["", TYPED_NAME]
    lines += _for_information(decision, base, candidate)
    names = [roles.baseline, *column_names(experts), roles.candidate]
    named = zip(names, (base, *experts, candidate), strict=True)
    odd = [
        f"* {inline(name)}: {inline(line, LONGEST)}" for name, r in named for line in odd_answers(r)
    ]
    if odd:
        lines += ["", "What went oddly in the evaluations:", "", *odd]
    return "\n".join(lines) + "\n"


def _for_information(
    decision: Decision, base: EvaluationReport, candidate: EvaluationReport
) -> list[str]:
    """What decides nothing: the documents to look at, and a test that many know."""
    lines = []
    worst = lost_most_lines(decision, base, candidate)
    if worst:
        lines += ["", "Examples to look at, at most three of a task: the documents that lost most"]
        lines[-1] += " (place in the suite, hash, change):"
        lines += ["", *(f"* {inline(line, LONGEST)}" for line in worst)]
    known = [
        f"{inline(task.task)} {number(mcnemar_p(task.gained, task.lost))}"
        for task in (decision.gate.tasks if decision.gate else ())
        if task.gained is not None and task.lost is not None
    ]
    if known:
        lines += [
            "",
            "For information only, McNemar's exact p: how often two equally good models would"
            " differ at least as much in the numbers of documents that became right and wrong (0.05"
            " is one time of twenty)."
            f" {', '.join(known)}.",
        ]
    return lines


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
    rows: Sequence[ComparisonRow],
    roles: Roles,
    experts: Sequence[str],
    may_lose: Sequence[str] | None = None,
) -> list[str]:
    """The change, interval and outcome of each task.

    Args:
        may_lose: for each row what may be lost, where it was measured rather than written.
    """
    kept = ["kept of the best expert's gain"] if experts else []
    lines = []
    for index, row in enumerate(rows):
        mark = f" ({row.mark})" if row.mark else ""
        cells = [
            row.task,
            _signed(row.improvement),
            f"{_interval(row)}{mark}",
            *([may_lose[index]] if may_lose else []),
            OUTCOMES.get(row.outcome, row.outcome),
        ]
        if experts:
            cells.append(_share(row, roles, experts))
        lines.append(cells)
    allowed = ["allowed loss"] if may_lose else []
    head = ["task", "change", "interval", *allowed, "outcome", *kept]
    return table(head, lines, ("task", "outcome"))


def _interval(row: ComparisonRow) -> str:
    """Of a change that was cut off, the far end says as little as where it was cut."""
    if row.mark == _CUT_OFF and row.high < 0:
        return f"at least {number(-row.high)} worse"
    if row.mark == _CUT_OFF and row.low > 0:
        return f"at least {number(row.low)} better"
    return f"{_signed(row.low)} to {_signed(row.high)}"


def _share(row: ComparisonRow, roles: Roles, experts: Sequence[str]) -> str:
    kept = row.best_expert_gain_kept
    if kept is None:
        return "no expert gained"
    if kept < 0:
        return f"none: worse than {roles.the_baseline}"
    score = (max if row.higher_is_better else min)(row.experts)
    return f"{100 * kept:.0f} % of {experts[row.experts.index(score)]}'s"


def _marks_words(rows: Sequence[ComparisonRow], roles: Roles) -> str:
    """What the marks at an interval mean, where there is one."""
    said = ""
    marks = {row.mark for row in rows if row.mark}
    if _CUT_OFF in marks:
        said += (
            f"; `{_CUT_OFF}`: not of the change beside it, but with each document's cut off at half"
            f" of {unit_of_documents(roles.the_baseline)}, so that a few cannot decide"
        )
    if marks - {_CUT_OFF}:
        said += (
            "; `without ... of them`: those documents are left out that"
            f" {inline(roles.the_baseline, LONGEST)} has no number for"
        )
    return said


def _kept_words(
    rows: Sequence[ComparisonRow], experts: Sequence[EvaluationReport], *, is_calibrated: bool
) -> str:
    if not experts:
        return ""
    is_more = any((row.best_expert_gain_kept or 0.0) > 1 for row in rows)
    more = " More than 100 % of a gain: measured better than that expert." if is_more else ""
    asked = " A rule asks for what was kept only where an expert surely gained."
    return more + (asked if is_calibrated else "")


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
