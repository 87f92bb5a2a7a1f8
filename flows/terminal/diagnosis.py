"""A diagnosis on a terminal: the pairs and ways as tables, then what to do."""

from __future__ import annotations

from rich.table import Table

from flows.terminal.console import Terminal, add_row, table_of
from tasks.diagnosis.diagnosis import NOTHING, Diagnosis
from tasks.diagnosis.summary import barrier_said, way_of

_STYLES = {"sure": "bold", "likely": "", "perhaps": "dim"}


def show_diagnosis(terminal: Terminal, found: Diagnosis) -> None:
    """What the page says, without its pictures."""
    if found.weights is not None:
        terminal.results.print(_models(found))
        if found.weights.profile.pairs:
            terminal.results.print(_pairs(found))
    else:
        terminal.say(found.no_weights)
    if found.curves is not None:
        terminal.results.print(_ways(found))
        terminal.say(
            f"changes against the {'base' if found.base else 'first model'} in units, on"
            f" {found.curves.documents} documents of the search half of suite"
            f" {found.curves.suite}; {found.curves.evaluated} merges were evaluated,"
            f" {found.curves.known} were known"
        )
    else:
        terminal.say(found.no_curves)
    if not found.advice:
        terminal.say(NOTHING)
    for advice in found.advice:
        terminal.say(f"{advice.do}  [{advice.sure}]", style=_STYLES[advice.sure] or None)
        terminal.say(f"    {advice.because}")
        terminal.say(f"    source: {advice.source}", style="dim")


def _models(found: Diagnosis) -> Table:
    assert found.weights is not None
    overall, ranks = found.weights.profile.overall, found.weights.ranks
    table = _table("task vector", "length", "of the base's", "entries changed", "effective rank")
    for k, name in enumerate(found.names):
        shares = [part.shares[k] for part in ranks]
        known = [share for share in shares if share is not None]
        rank = f"{sum(known) / len(known):.0%}" if known else "-"
        norms = (f"{overall.norms[k]:.4g}", f"{overall.relative_norms[k]:.1%}")
        add_row(table, name, *norms, f"{overall.changed[k]:.0%}", rank)
    return table


def _pairs(found: Diagnosis) -> Table:
    assert found.weights is not None
    overall, clashes = found.weights.profile.overall, found.weights.clashes
    table = _table("pair", "cosine", "signs in conflict", "magnitude a sum loses")
    for k, (i, j) in enumerate(found.weights.profile.pairs):
        cosine = overall.cosines[k]
        add_row(
            table,
            f"{found.names[i]}, {found.names[j]}",
            "-" if cosine is None else f"{cosine:+.3f}",
            f"{overall.conflicts[k]:.0%}",
            f"{clashes.cancelled[k]:.0%}",
        )
    return table


def _ways(found: Diagnosis) -> Table:
    assert found.curves is not None
    curves = found.curves.curves
    places = sorted({point.at for curve in curves for point in curve.points})
    table = _table("way", *(f"at {place:g}" for place in places), "barrier")
    for curve in curves:
        known = {point.at: point.change for point in curve.points}
        changes = [known.get(place) for place in places]
        cells = ["" if change is None else f"{change:+.3f}" for change in changes]
        add_row(table, way_of(found, curve), *cells, barrier_said(curve))
    return table


def _table(first: str, *others: str) -> Table:
    return table_of(first, *others, right=others)
