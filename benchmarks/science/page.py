"""The page, and the numbers of it as a file that programs read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.science.advice import AT_LARGE, advice
from benchmarks.science.chapters import Chapter, Table
from benchmarks.science.estimates import BEYOND, Estimate
from benchmarks.science.sizes import Size

FEW = 5
"""Seeds below which the page warns of their spread."""


@dataclass(frozen=True)
class Run:
    """What was run."""

    size: Size
    seeds: Sequence[int]
    quick: bool


def page(chapters: Mapping[str, Chapter], run: Run, pictures: str) -> str:
    """The whole page.

    Args:
        pictures: the directory of the pictures, from the page.
    """
    size, zoo = run.size, run.size.zoo
    parameters = f"{size.parameters / 1e6:.1f} million parameters"
    errors = (
        f"one standard error over {len(run.seeds)} seeds and over held-out files: the variance"
        " between seeds and the variance between files, each over its number, added. Where no"
        " documents are involved (scales, lengths, conflicts), it is over seeds alone"
        + (". So few seeds say of their own spread little" if len(run.seeds) < FEW else "")
        if len(run.seeds) > 1
        else "one standard error over held-out files; with one seed that between seeds is unknown"
    )
    lines = [
        "# What merging does at this size",
        "",
        "Written by `make science`, which trains, merges and evaluates; nothing here is typed by"
        " hand." + (" **This was a quick run, which shows nothing.**" if run.quick else ""),
        "",
        f"The models are Llamas of {parameters} by [the zoo's recipe](../examples/README.md): a"
        f" base of {zoo.base.tokens:,} tokens of code and prose, experts of {zoo.expert.tokens:,}"
        f" more. Seeds {', '.join(map(str, run.seeds))}, each with a base, experts and merges of"
        " its own. merge_core merges; forward passes over held-out documents evaluate. Scales and"
        f" ingredients are chosen on {size.tuning_files} files of each domain, everything is judged"
        f" on {size.judging_files} others (two documents of a file).",
        "",
        f"Errors are {errors}. Differences are paired by document and by seed. A claim **held** if"
        f" the mean is more than {BEYOND:g} standard errors above zero, the **opposite was seen**"
        " if it is as far below, and else it was **not shown**.",
        "",
        "Experts of a *dialect* learn the same text written otherwise (in capitals, with the words"
        " of a line backwards, with underscores for spaces, with figures for vowels). The base has"
        " not seen these, so each teaches something that the others do not know.",
        "",
    ]
    for number, chapter in enumerate(chapters.values(), 1):
        lines += _chapter(number, chapter, pictures)
    lines += ["## All claims", "", *_summary(chapters, parameters), ""]
    lines += ["## What follows", "", AT_LARGE, ""]
    lines.append(f"From the experiments here, at {parameters}:")
    lines += ["", *(f"* {said}" for said in advice(chapters))]
    return "\n".join(lines) + "\n"


def numbers(chapters: Mapping[str, Chapter], run: Run) -> str:
    """`measured.json`: means and standard errors by name."""
    found = {name: each for chapter in chapters.values() for name, each in chapter.numbers.items()}
    content = {
        "written_by": "make science",
        "quick": run.quick,
        "seeds": list(run.seeds),
        "parameters": run.size.parameters,
        "tokens": {"base": run.size.zoo.base.tokens, "expert": run.size.zoo.expert.tokens},
        "unit": "bits per byte, or a share, as docs/science.md says",
        "numbers": {name: _number(each) for name, each in found.items()},
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _chapter(number: int, chapter: Chapter, pictures: str) -> list[str]:
    lines = [f"## {number}. {chapter.title}", "", chapter.done, ""]
    lines += [f"![{chapter.alt}]({pictures}/{chapter.name}.png)", ""]
    for finding in chapter.findings:
        lines.append(
            f"* {finding.claim} ({finding.paper}) **{finding.estimate.verdict}**: {finding.said}."
        )
    lines += [f"* {note}" for note in chapter.notes]
    lines.append("")
    for table in chapter.tables:
        lines += [*_table(table), ""]
    return lines


def _summary(chapters: Mapping[str, Chapter], parameters: str) -> list[str]:
    rows = [
        [finding.claim.rstrip("."), finding.paper, finding.estimate.verdict, finding.said]
        for chapter in chapters.values()
        for finding in chapter.findings
    ]
    head = ["claim", "paper", f"seen at {parameters}", "mean ± standard error"]
    return _table(Table(head, rows))


def _table(table: Table) -> list[str]:
    return [
        "| " + " | ".join(table.head) + " |",
        "|" + "---|" * len(table.head),
        *("| " + " | ".join(row) + " |" for row in table.rows),
    ]


def _number(value: Estimate | float) -> object:
    if not isinstance(value, Estimate):
        return _finite(value)
    return {
        "mean": _finite(value.mean),
        "error": _finite(value.error),
        "seeds": value.seeds,
        "documents": value.documents,
    }


def _finite(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None
