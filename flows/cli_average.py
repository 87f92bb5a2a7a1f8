"""Commands around averages of a training run's checkpoints: make one, and tidy the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.options import AsJson, TrackingUri
from tasks.durations import read_duration

if TYPE_CHECKING:
    from flows.average_steps import NothingNew
    from flows.averaging import LoadedAveraging
    from flows.console import Terminal
    from tasks.records import MergeOutcome
    from tasks.retention import StoredItem


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to the program."""
    app.command(epilog="Example: `mergeflow average configs/averages/zoo-prose.yaml`")(average)
    app.command(epilog="Example: `mergeflow gc`, then `mergeflow gc --yes`")(gc)


def average(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="An averaging configuration (YAML).")
    ],
    as_json: AsJson = False,
) -> None:
    """Average a training run's checkpoints. Exit code 0: promoted, or nothing new; 3: fell back."""
    from flows.cli_session import check_approval, session_for
    from flows.console import Terminal

    terminal = Terminal(machine=as_json)
    with session_for(config, terminal) as prefect:
        from flows.average_steps import NothingNew
        from flows.averaging import check_places, load_averaging
        from flows.running import show_outcome

        loaded = load_averaging(config)
        check_places(loaded)
        check_approval(loaded.averaging.promote, prefect, config)
        prefect.ready()
        outcome = _run(loaded, terminal)
        idle = isinstance(outcome, NothingNew)
        if as_json:
            state = {"state": "NothingNew"} if idle else {}
            terminal.give(state | outcome.model_dump(mode="json"))
        elif isinstance(outcome, NothingNew):
            terminal.say(f"NothingNew: {outcome.reason}", style="bold")
        else:
            show_outcome(terminal, outcome)
    if not isinstance(outcome, NothingNew) and outcome.state != "Promoted":
        raise typer.Exit(3)


def gc(
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove it. Without this, only show what would go.")
    ] = False,
    keep: Annotated[
        int, typer.Option(min=0, help="Averages of each configuration to keep in any case.")
    ] = 5,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Leave younger things alone: 30m, 24h, 7d.")
    ] = "24h",
    tracking_uri: TrackingUri = "",
    no_registry: Annotated[
        bool, typer.Option("--no-registry", help="Nothing of this store is registered anywhere.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show, or remove, stored checkpoints that neither the registry nor anything else needs."""
    from flows.console import Terminal, size
    from merge_core.home import Home
    from tasks.registry_client import default_tracking_uri
    from tasks.retention import remove, survey

    terminal, home = Terminal(machine=as_json), Home.discover()
    uri = None if no_registry else tracking_uri or default_tracking_uri(home)
    items = survey(home, uri, keep=keep, older_than_seconds=_seconds(older_than))
    useless = [item for item in items if item.kept is None]
    if not as_json:
        _show(terminal, items)
    freed = remove(home, useless) if yes else 0
    if as_json:
        listed = [item.model_dump(mode="json") for item in items]
        terminal.give({"removed": yes, "freed_bytes": freed, "items": listed})
    elif yes:
        terminal.say(f"removed {len(useless)}, {size(freed)} freed", "bold")
    elif useless:
        total = size(sum(item.bytes for item in useless))
        terminal.say(f"{len(useless)} could go, {total}: `mergeflow gc --yes` removes them", "bold")
    else:
        terminal.say("nothing to remove", "bold")


def _run(loaded: LoadedAveraging, terminal: Terminal) -> MergeOutcome | NothingNew:
    from prefect import tags

    from flows.average_checkpoints import average_checkpoints
    from tasks.progress import listening

    averaging = loaded.averaging
    with (
        terminal.steps(),
        terminal.progress() as progress,
        listening(progress),
        tags(averaging.average.schedule),
    ):
        state = average_checkpoints(averaging, str(loaded.beside), return_state=True)
    outcome: MergeOutcome | NothingNew = state.result()
    return outcome


def _show(terminal: Terminal, items: list[StoredItem]) -> None:
    from rich.table import Table

    from flows.console import add_row, cell, size

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("what", "name", "size", "age", "kept because"):
        table.add_column(head, justify="right" if head in ("size", "age") else "left")
    for item in items:
        why = item.kept or cell("nothing needs it", "yellow")
        hours = item.age_seconds / 3600
        age = f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.0f} d"
        add_row(table, item.kind, item.name[:12], size(item.bytes), age, why)
    if items:
        terminal.results.print(table)


def _seconds(age: str) -> float:
    try:
        return read_duration(age)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
