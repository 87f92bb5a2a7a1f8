"""The outcome of a run as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.gate.simulate import Outcome, Target

_SAID: dict[Target, str] = {
    "at most": "false promotions, at most",
    "at least": "promotions, at least",
    "promoted at most": "promotions, at most",
    "refused at most": "refusals, at most",
    "shown": "promotions",
}


def page(outcomes: Sequence[Outcome], how: str) -> str:
    """A summary of each family by its worst cell, then every cell."""
    families = list(dict.fromkeys(each.cell.family for each in outcomes))
    missed = [each for each in outcomes if not each.holds]
    lines = [
        "# What the gate promotes, simulated",
        "",
        "Written by `make gate`, which runs the shipped rule on documents with a known truth.",
        "A promotion is false if the true weighted mean change is at most `exceed`, or if a task",
        "truly lost its margin (of unbounded metrics: by their clipped change). In these cells the",
        f"truth is exactly at that border, the worst place. {how}",
        "A cell holds if it is within three simulation errors of its bound.",
        "",
        f"{len(outcomes)} cells, {len(missed)} beyond their bound" + (":" if missed else "."),
        *(f"* {each.cell.family}: {each.cell.name}: {_number(each)}" for each in missed),
        "",
        "| family | cells | bound | worst | in |",
        "|---|---|---|---|---|",
    ]
    for family in families:
        own = [each for each in outcomes if each.cell.family == family]
        for target in dict.fromkeys(each.cell.target for each in own):
            if target != "shown":
                alike = [each for each in own if each.cell.target == target]
                lines.append(_summary(family, alike))
    lines += ["", "## Every cell", ""]
    for family in families:
        lines += [f"### {family[0].upper()}{family[1:]}", "", *_HEAD]
        lines += [_row(each) for each in outcomes if each.cell.family == family]
        lines.append("")
    return "\n".join(lines)


_HEAD = (
    "| cell | counted | bound | found | inconclusive | fell back | documents seen | margin |",
    "|---|---|---|---|---|---|---|---|",
)


def _summary(family: str, outcomes: Sequence[Outcome]) -> str:
    least = outcomes[0].cell.target == "at least"
    worst = (min if least else max)(outcomes, key=lambda each: each.rate)
    bound = _bound(worst)
    return f"| {family} | {len(outcomes)} | {bound} | {_number(worst)} | {worst.cell.name} |"


def _row(outcome: Outcome) -> str:
    cell, count = outcome.cell, outcome.simulations
    other = count - outcome.promoted - outcome.fell_back
    known = bool(cell.worlds)
    return (
        f"| {cell.name} | {_SAID[cell.target].partition(',')[0]} | {_bound(outcome)}"
        f" | {_number(outcome)}{'' if outcome.holds else ' **beyond**'}"
        f" | {_percent(other / count) if known else ''}"
        f" | {_percent(outcome.fell_back / count) if known else ''}"
        f" | {_percent(outcome.seen / count, 0) if known else ''}"
        f" | {f'{outcome.margin / count:.3f}' if known else ''} |"
    )


def _bound(outcome: Outcome) -> str:
    cell = outcome.cell
    if cell.target == "shown":
        return ""
    return f"{_SAID[cell.target]} {_percent(cell.share)}"


def _number(outcome: Outcome) -> str:
    return f"{_percent(outcome.rate, 2)} ± {_percent(outcome.error, 2)}"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"
