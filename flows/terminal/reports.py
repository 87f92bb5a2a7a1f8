"""Reports of the pipeline's steps as tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from flows.terminal.console import Terminal, add_row, cell, table_of
from merge_core.operations.profile import Section, TaskVectorProfile
from merge_core.verification.verify import CompatibilityReport
from tasks.evaluation.odd_answers import odd_answers
from tasks.promotion.headline import CANDIDATE, headline
from tasks.records import Decision, EvaluationReport
from tasks.reports.decision import column_names, comparison_rows
from tasks.reports.names import distinct_names
from tasks.roles import the

_SEVERITIES = {"error": "bold red", "warning": "yellow", "info": "dim"}
OUTCOME_STYLES = {"held": "green", "regressed": "red", "unclear": "yellow"}


HOW_TO_READ = "change: positive is better; ↑ a higher score is better, ↓ a lower one"
"""Below a table of scores with their changes."""


def show_compatibility(terminal: Terminal, report: CompatibilityReport) -> None:
    """One row for each checkpoint, then the findings, the gravest first."""
    names = distinct_names([row.reference for row in report.rows])
    table = table_of("checkpoint", "digest", "verdict")
    for row, name in zip(report.rows, names, strict=True):
        add_row(table, name, row.digest[:12], row.verdict)
    terminal.results.print(table)
    for finding in report.findings:
        style = _SEVERITIES[finding.severity]
        shown = Text.assemble((f"{finding.severity}:", style), " ", str(finding))
        terminal.results.print(shown)
    first = next((row for row in report.rows if row.architecture), None)
    if report.ok and first is not None:
        extent = "every weight" if report.scanned else "a sample of the weights"
        terminal.say(
            f"these can be merged: {first.architecture}, {first.parameters:,} parameters,"
            f" {first.dtype}; {extent} read"
        )
    else:
        terminal.say("these cannot be merged", style="bold red")


def show_profile(terminal: Terminal, profile: TaskVectorProfile) -> None:
    """Task vectors overall and by part of the model."""
    names = distinct_names(profile.models)
    norms = [f"norm {name}" for name in names]
    pairs = []
    for first, second in profile.pairs:
        pairs += [f"cosine {names[first]}, {names[second]}", "signs in conflict"]
    table = table_of("part", *norms, *pairs, right=(*norms, *pairs), wraps=pairs)
    for section in (profile.overall, *profile.groups, *profile.layers):
        add_row(table, *_profile_row(section))
    terminal.results.print(table)
    terminal.say(
        f"norms are relative to the base's; base {profile.base}; signs: of the weights that both"
        " changed, the share moved in opposite directions"
    )


def show_scores(terminal: Terminal, reports: Sequence[EvaluationReport]) -> None:
    """One row for each task, one column for each checkpoint."""
    names = column_names(reports)
    table = table_of("task", "metric", *names, right=names)
    for score in reports[0].scores:
        add_row(
            table,
            score.task,
            _metric(score.metric, score.higher_is_better),
            *(f"{report.score(score.task).score:.4f}" for report in reports),
        )
    terminal.results.print(table)
    for name, report in zip(names, reports, strict=True):
        for line in odd_answers(report):
            terminal.warn(f"{name}: {line}")


def show_decision(
    terminal: Terminal,
    decision: Decision,
    baseline: EvaluationReport,
    experts: Sequence[EvaluationReport],
    candidate: EvaluationReport,
) -> None:
    """Everyone's scores side by side, the verdict, and its reasons."""
    numbers = (*column_names([baseline, *experts, candidate]), "change", "outcome")
    table = table_of("task", "metric", *numbers, right=numbers)
    for row in comparison_rows(decision, baseline, experts, candidate):
        scores = (row.base, *row.experts, row.merged)
        add_row(
            table,
            row.task,
            _metric(row.metric, row.higher_is_better),
            *(f"{score:.4f}" for score in scores),
            f"{row.improvement:+.4f}",
            cell(row.outcome, OUTCOME_STYLES[row.outcome]),
        )
    if decision.comparisons:
        terminal.results.print(table)
        terminal.say(HOW_TO_READ)
    say_decision(terminal, decision, CANDIDATE, the(decision.baselines[0]))


def say_decision(terminal: Terminal, decision: Decision, candidate: str, baseline: str) -> None:
    """The headline of a decision and its reasons, a line for each.

    Args:
        candidate: the name of the checkpoint that may be promoted.
        baseline: the name of the checkpoint that it is compared with.
    """
    style = "bold green" if decision.promote else "bold yellow"
    terminal.say(headline(decision, candidate, baseline), style=style)
    for reason in decision.reasons:
        terminal.say(f"  - {reason}")


def _profile_row(section: Section) -> list[str]:
    cells = [section.name, *(f"{norm:.2%}" for norm in section.relative_norms)]
    for cosine, conflict in zip(section.cosines, section.conflicts, strict=True):
        cells += ["-" if cosine is None else f"{cosine:+.3f}", f"{conflict:.0%}"]
    return cells


def _metric(name: str, higher_is_better: bool) -> str:
    return f"{name} {'↑' if higher_is_better else '↓'}"
