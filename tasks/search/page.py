"""A search as a page: what was found, every trial, the pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from merge_core.text.markdown import block, inline, table
from tasks.search.selection import best, candidates, pareto_front
from tasks.search.trial import Result, Seconds, Trial

_MOST_ROWS = 200


def spent(trials: Sequence[Trial]) -> Seconds:
    """What all trials together took."""
    total = Seconds()
    for trial in trials:
        total = total.plus(trial.result.seconds)
    return total


def shares_said(trials: Sequence[Trial]) -> str:
    """What the time of the trials went into, in words."""
    seconds = spent(trials)
    if not seconds.total:
        return "every evaluation was known"
    parts = {
        "start-up": seconds.starting,
        "merging": seconds.merging,
        "forward passes": seconds.forward,
    }
    said = ", ".join(f"{name} {100 * each / seconds.total:.0f} %" for name, each in parts.items())
    paid = sum(not trial.result.known for trial in trials)
    return f"{said} of {seconds.total:.1f} s for {paid} trials"


def change_said(result: Result) -> str:
    """The objective with its interval, in words."""
    if result.objective is None:
        return result.why or "failed"
    if result.low is None or result.high is None:
        return f"{result.objective:+.4f}"
    return f"{result.objective:+.4f} ({result.low:+.4f} to {result.high:+.4f})"


def documents_said(result: Result) -> str:
    """How many documents were evaluated, of how many."""
    return f"{result.documents} of {result.of_documents}" if result.documents else "none"


def search_markdown(
    name: str, trials: Sequence[Trial], recipe: str, pictures: Mapping[str, bytes]
) -> str:
    """The page on the run and in MLflow.

    Args:
        recipe: the best one, as a file.
        pictures: PNGs by what they show.
    """
    winner, front = best(trials), {trial.number for trial in pareto_front(trials)}
    lines = [f"# Search {inline(name)}", ""]
    if winner:
        lines += [
            f"Best of {candidates(trials)} candidates: trial {winner.number},"
            f" {inline(winner.name)}: {change_said(winner.result)} units against the base on the"
            " search documents. The decision is made on other documents.",
            "",
        ]
    lines += [f"Time: {inline(shares_said(trials))}.", ""]
    for said, picture in pictures.items():
        inside = base64.b64encode(picture).decode()
        lines += [f"![{inline(said)}](data:image/png;base64,{inside})", ""]
    head = ["trial", "candidate", "change in units", "documents", "seconds", ""]
    rows = [
        [
            str(trial.number),
            inline(trial.name),
            inline(change_said(trial.result)),
            documents_said(trial.result),
            "known" if trial.result.known else f"{trial.result.seconds.total:.1f}",
            _mark(trial, winner, front),
        ]
        for trial in trials[:_MOST_ROWS]
    ]
    lines += table(head, rows, ["candidate", "change in units", ""])
    if len(trials) > _MOST_ROWS:
        lines += ["", f"{len(trials) - _MOST_ROWS} more are in MLflow."]
    lines += ["", "## The best recipe", "", block(recipe, "yaml")]
    return "\n".join(lines) + "\n"


def _mark(trial: Trial, winner: Trial | None, front: set[int]) -> str:
    if winner and trial.number == winner.number:
        return "best"
    if trial.number in front and len(trial.result.tasks) > 1:
        return "on the front"
    return "" if trial.result.outcome == "whole" else trial.result.outcome
