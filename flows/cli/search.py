"""The command that searches for the best merge, and shows what was found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import AsJson
from tasks.processes.shipped_files import example

if TYPE_CHECKING:
    from flows.search import SearchOutcome
    from flows.settings.search import SearchPipeline
    from flows.terminal.console import Terminal
    from tasks.search.sampling import KeptSearch

_SHOW = "show"


def add_commands(app: typer.Typer) -> None:
    """Add this module's command to the program."""
    shown = example("searches", "zoo-sweep.yaml")
    app.command(epilog=f"Examples: `mergeflow search {shown}`, `mergeflow search show zoo-sweep`")(
        search
    )


def search(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A search file (YAML); or: show NAME.")
    ],
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="After `show`: the search's name.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the best merge within a budget. Exit code 0: it was promoted; 3: fell back to the base.

    `mergeflow search show NAME` shows a search that was made, or goes on just now.
    """
    from flows.terminal.console import Terminal

    terminal = Terminal(machine=as_json)
    if file == _SHOW and name is None and not Path(file).exists():
        raise typer.BadParameter(
            "say which search: `mergeflow search show NAME`", param_hint="NAME"
        )
    if file == _SHOW and name is not None:
        _show(name, terminal)
        return
    if name is not None:
        raise typer.BadParameter(f"one file at a time; `{name}` is one more", param_hint="FILE")
    from flows.cli.session import check_approval, session_for

    config = Path(file)
    with session_for(config, terminal) as prefect:
        from flows.cli.run import show_outcome
        from flows.settings.pipeline import LoadedPipeline, check_places
        from flows.settings.search import load_search

        pipeline, beside = load_search(config)
        check_places(LoadedPipeline(pipeline, beside))
        check_approval(pipeline.promote, prefect, config)
        prefect.ready()
        found = _run(pipeline, beside, terminal)
        if as_json:
            terminal.give(found.model_dump(mode="json"))
        else:
            show_outcome(terminal, found.outcome)
            _say_best(terminal, found)
    if found.outcome.state != "Promoted":
        raise typer.Exit(3)


def _run(pipeline: SearchPipeline, beside: Path, terminal: Terminal) -> SearchOutcome:
    from prefect import tags

    from flows.run_step import call_flow
    from flows.search import search_merges
    from tasks.progress import listening

    with (
        terminal.steps(),
        terminal.progress() as progress,
        listening(progress),
        tags(pipeline.search.sampler),
    ):
        outcome: SearchOutcome = call_flow(search_merges, pipeline, str(beside))
    return outcome


def _say_best(terminal: Terminal, found: SearchOutcome) -> None:
    from flows.terminal.console import shown_path

    terminal.say(f"  search    trial {found.best.number} of {found.candidates}: {found.best.name}")
    terminal.say(f"  recipe    {shown_path(found.recipe)}")
    terminal.say(f"  time      {found.time}")


def _show(name: str, terminal: Terminal) -> None:
    from merge_core.errors import RecipeError, did_you_mean
    from merge_core.homes.home import Home
    from tasks.search.postgresql import read_search_database
    from tasks.search.sampling import kept_searches

    home = Home.discover(make=False)
    known = kept_searches(home, read_search_database(home))
    found = [each for each in known if name in (each.name, each.id)]
    if not found:
        names = list(dict.fromkeys(each.name for each in known))
        raise RecipeError(
            f"this home has no search '{name}'",
            mend=did_you_mean(name, names) if names else "start one: `mergeflow search FILE`",
        )
    if terminal.machine:
        latest = found[-1]
        trials = [trial.model_dump(mode="json") for trial in latest.trials]
        terminal.give({"search": latest.id, "file": latest.about, "trials": trials})
        return
    _show_kept(found[-1], terminal)


def _show_kept(kept: KeptSearch, terminal: Terminal) -> None:
    from rich.table import Table

    from flows.terminal.console import add_row, cell
    from tasks.search.page import change_said, documents_said, shares_said
    from tasks.search.selection import best, candidates

    winner = best(kept.trials)
    table = Table(box=None, header_style="bold")
    for head in ("trial", "candidate", "change in units", "documents", "seconds"):
        table.add_column(head, justify="left" if head == "candidate" else "right", no_wrap=True)
    for trial in kept.trials:
        result = trial.result
        took = "known" if result.known else f"{result.seconds.total:.1f}"
        style = "bold green" if trial == winner else "" if result.outcome == "whole" else "dim"
        row = (trial.number, trial.name, change_said(result), documents_said(result), took)
        add_row(table, *(cell(each, style) for each in row))
    terminal.results.print(table)
    if winner is None:
        terminal.say("no candidate was evaluated on every document yet")
        return
    terminal.say(
        f"best of {candidates(kept.trials)} candidates: trial {winner.number}, {winner.name};"
        " changes are against the base, on the search documents. The decision is made on others"
    )
    terminal.say(f"time: {shares_said(kept.trials)}")
