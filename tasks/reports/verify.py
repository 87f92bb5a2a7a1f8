"""The compatibility report and the task vector profile as markdown pages for the run's view."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from merge_core.findings import Finding, Severity, counted
from merge_core.operations.profile import Section, TaskVectorProfile
from merge_core.text.markdown import Markdown, code, inline, table
from merge_core.text.plain import LONGEST
from merge_core.verification.verify import CheckpointRow, CompatibilityReport
from tasks.reports.names import distinct_names

_HEADINGS: dict[Severity, str] = {"error": "Errors", "warning": "Warnings", "info": "Good to know"}


def compatibility_markdown(report: CompatibilityReport) -> str:
    """The verdict, one row for each checkpoint, then the findings with what to do about each."""
    lines = [f"## {_headline(report)}", ""]
    lines += [*_kinds(report), "", *_distances(report), ""]
    lines += [
        f"* {inline(name)} is {code(row.reference, LONGEST)}"
        for name, row in _named(report)
        if name != row.reference
    ]
    origin = "the base" if report.base else "the first model"
    read = "Every weight was read." if report.scanned else "Weights were sampled, not all read."
    lines += [
        "",
        f"Distance: of the weights from {origin}'s, relative to its norm. Cosine: with {origin}'s"
        f" weights, the median over sampled tensors; near 1 for a fine-tune, near 0 for a stranger."
        f" Equal tokenizer digests: equal token ids for every text. {read}",
    ]
    for severity, heading in _HEADINGS.items():
        found = [finding for finding in report.findings if finding.severity == severity]
        if found:
            lines += ["", f"### {heading}", "", *(_item(finding) for finding in found)]
    return "\n".join(lines) + "\n"


def _kinds(report: CompatibilityReport) -> list[str]:
    """What each checkpoint is. How near they are is a table of its own: one of both runs off the
    page."""
    head = ["checkpoint", "architecture", "parameters", "stored as"]
    rows = [
        [
            name,
            row.architecture or "-",
            f"{row.parameters:,}" if row.parameters is not None else "-",
            row.dtype or "-",
        ]
        for name, row in _named(report)
    ]
    return table(head, rows, ("checkpoint", "architecture", "stored as"))


def _distances(report: CompatibilityReport) -> list[str]:
    head = ["checkpoint", "distance", "cosine", "verdict", "tokenizer", "digest"]
    rows = [
        [
            name,
            f"{row.relative_norm:.1%}" if row.relative_norm is not None else "-",
            f"{row.median_cosine:.4f}" if row.median_cosine is not None else "-",
            row.verdict,
            code(row.tokenizer[:8]) if row.tokenizer else "-",
            code(row.digest[:8]),
        ]
        for name, row in _named(report)
    ]
    return table(head, rows, ("checkpoint", "verdict", "tokenizer", "digest"))


def _named(report: CompatibilityReport) -> list[tuple[str, CheckpointRow]]:
    """Each checkpoint by as little of its reference as tells it from the others."""
    names = distinct_names([row.reference for row in report.rows])
    return list(zip(names, report.rows, strict=True))


def profile_markdown(profile: TaskVectorProfile, png: bytes | None = None) -> str:
    """Task vectors overall, pair by pair, by kind of tensor and layer, with the picture inline."""
    names = distinct_names(profile.models)
    named = ", ".join(map(inline, names))
    lines = [f"## Task vectors of {named}", "", f"Differences from {inline(profile.base)}.", ""]
    if png is not None:
        picture = base64.b64encode(png).decode()
        lines += [f"![task vectors by layer](data:image/png;base64,{picture})", ""]
    lines += [*_model_table(profile, names), ""]
    if profile.pairs:
        lines += [*_pair_table(profile, names), "", _reading(profile), ""]
    lines += ["### By part of the model", "", *_section_table(profile, names)]
    if profile.skipped:
        lines += ["", f"Without a task vector: {', '.join(map(inline, profile.skipped))}."]
    return "\n".join(lines) + "\n"


def _headline(report: CompatibilityReport) -> str:
    if report.errors:
        return f"These cannot be merged: {counted(len(report.errors), 'error')}"
    if report.warnings:
        return f"These can be merged, with {counted(len(report.warnings), 'warning')}"
    return "These can be merged"


def _item(finding: Finding) -> str:
    mend = f" *What to do:* {_sentence(finding.mend)}." if finding.mend else ""
    said = f"**{inline(finding.subject)}**: {_sentence(finding.message)}.{mend}"
    return f"* {said} ({code(finding.code)})"


def _sentence(text: str) -> Markdown:
    """A whole message, uncut."""
    return inline(text, LONGEST)


def _model_table(profile: TaskVectorProfile, names: Sequence[str]) -> list[str]:
    overall = profile.overall
    head = ["model", "norm", "relative", "changed"]
    head += ["median size of a change"]
    head += [f"kept at density {density:g}" for density in profile.densities]
    rows = []
    for index, name in enumerate(names):
        row = [
            name,
            f"{overall.norms[index]:.4g}",
            f"{overall.relative_norms[index]:.2%}",
            f"{overall.changed[index]:.1%}",
            f"{overall.magnitudes[index][0]:.2e}",
        ]
        rows.append(row + [f"{share:.1%}" for share in overall.kept[index]])
    return [
        *table(head, rows, ("model",)),
        "",
        "Relative: to the base's norm. Changed: weights that differ from the base at all. Kept:"
        " share of the squared norm that is left when each tensor keeps only its largest values"
        " (TIES' density).",
    ]


def _pair_table(profile: TaskVectorProfile, names: Sequence[str]) -> list[str]:
    overall = profile.overall
    rows = [
        [f"{names[i]}, {names[j]}", _cosine(overall.cosines[index]), f"{conflict:.1%}"]
        for index, ((i, j), conflict) in enumerate(
            zip(profile.pairs, overall.conflicts, strict=True)
        )
    ]
    return table(["pair", "cosine", "signs in conflict"], rows, ("pair",))


def _reading(profile: TaskVectorProfile) -> str:
    """The pairs in a sentence: what their cosines mean for a merge."""
    known = [cosine for cosine in profile.overall.cosines if cosine is not None]
    if not known:
        return "A task vector is zero, so there is nothing to compare."
    low, high = min(known), max(known)
    if low < -0.1:
        says = "some pull in opposite directions, so a sum cancels part of what each learned"
    elif high > 0.5:
        says = "some share most of their direction, so a sum counts it twice"
    else:
        says = "close to orthogonal, so they can be added with little interference"
    cosines = f"Cosine {low:+.2f}" if len(known) == 1 else f"Cosines {low:+.2f} to {high:+.2f}"
    return (
        f"{cosines}: {says}. Signs of independent vectors conflict in half of the weights that both"
        " changed."
    )


def _section_table(profile: TaskVectorProfile, names: Sequence[str]) -> list[str]:
    head = ["part", "parameters", *(f"relative norm, {name}" for name in names)]
    head += [f"cosine, {names[i]} and {names[j]}" for i, j in profile.pairs]
    if profile.pairs:
        head.append("signs in conflict")
    rows = [_section_row(s, profile) for s in (profile.overall, *profile.groups, *profile.layers)]
    return table(head, rows, ("part",))


def _section_row(section: Section, profile: TaskVectorProfile) -> list[str]:
    row = [section.name, f"{section.parameters:,}"]
    row += [f"{norm:.2%}" for norm in section.relative_norms]
    row += [_cosine(cosine) for cosine in section.cosines]
    return row + [f"{section.any_conflict:.1%}"] * bool(profile.pairs)


def _cosine(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"
