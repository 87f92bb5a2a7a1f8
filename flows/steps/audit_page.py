"""What an audit found, as a page: each version with its checks, those that do not hold first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from merge_core.findings import counted
from merge_core.text.markdown import Markdown, inline, table
from tasks.audit.report import Answer, AuditReport

_MOST_VERSIONS = 500
_MOST_SHOWN = 50
"""Versions whose checks are shown: a page of thousands opens in no browser."""
_WORDS = {"holds": "holds", "fails": "**does not hold**", "unknown": "could not be looked at"}


def audit_markdown(reports: Sequence[AuditReport]) -> str:
    """The versions in one table, then the checks of each."""
    ordered = sorted(reports, key=lambda report: report.holds)
    parts = [f"## Audit: {summary(reports)}", ""]
    if len(ordered) > 1:
        parts += _versions(ordered[:_MOST_VERSIONS])
        parts += _left_out("", len(ordered) - _MOST_VERSIONS)
    for report in ordered[:_MOST_SHOWN]:
        parts += ["", f"### {inline(report.model_uri)}", "", *_checks(report.answers)]
    parts += _left_out("The checks of ", len(ordered) - _MOST_SHOWN)
    return "\n".join(parts) + "\n"


def summary(reports: Sequence[AuditReport]) -> str:
    """What an audit came to, in one line."""
    if not reports:
        return "no version of a model of mergeflow's is registered"
    failing = sum(not report.holds for report in reports)
    unknown = sum(len(report.of("unknown")) for report in reports)
    left = f"; {counted(unknown, 'thing')} could not be looked at" if unknown else ""
    if len(reports) == 1:
        one = reports[0].model_uri
        said = f"{one} does not hold" if failing else f"all that is recorded of {one} holds"
    else:
        many = counted(len(reports), "version")
        verb = "does" if failing == 1 else "do"
        said = f"{failing:,} of {many} {verb} not hold"
        said = said if failing else f"all that is recorded of {many} holds"
    return said + left


def _versions(reports: Iterable[AuditReport]) -> list[str]:
    rows = [
        (
            report.model_uri,
            Markdown(_WORDS["holds" if report.holds else "fails"]),
            str(len(report.of("fails"))),
            str(len(report.of("unknown"))),
        )
        for report in reports
    ]
    return table(("version", "", "fail", "unknown"), rows, left=("version", ""))


def _checks(answers: Iterable[Answer]) -> list[str]:
    rows = [
        (each.check, Markdown(_WORDS[each.outcome]), inline(each.what, 500)) for each in answers
    ]
    return table(("check", "", "what was found"), rows, left=("check", "", "what was found"))


def _left_out(of: str, count: int) -> list[str]:
    if count <= 0:
        return []
    are = f"{of}{counted(count, 'version')} are left out"
    return ["", f"{are}: `mergeflow audit --all` shows them."]
