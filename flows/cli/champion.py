"""Commands around the alias `champion`: promote by hand, go back, unpin, read the history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.check import DOES_NOT_HOLD
from flows.cli.options import AsJson, TrackingUri, home_and_registry, terminal_for

if TYPE_CHECKING:
    from flows.terminal.console import Terminal
    from tasks.registry.chosen_by_hand import ChosenByHand
    from tasks.registry.history_report import HistoryReport

Name = Annotated[str, typer.Argument(metavar="NAME", help="A registered model.")]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason, for the history.")]
By = Annotated[
    str, typer.Option("--by", metavar="NAME", help="Who decides. Written down as typed.")
]


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to the program."""
    app.command(epilog='Example: `mergeflow promote zoo-good 2 --why "tried by hand"`')(promote)
    app.command(epilog='Example: `mergeflow rollback zoo-good --why "the canary failed"`')(rollback)
    app.command(epilog="Example: `mergeflow unpin zoo-good`")(unpin)
    app.command(epilog="Example: `mergeflow history zoo-good`")(history)


def promote(
    name: Name,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Its number.")],
    why: Why,
    by: By = "",
    tracking_uri: TrackingUri = "",
    as_json: AsJson = False,
) -> None:
    """Give the alias to a version and pin it: runs leave it there until `mergeflow unpin`."""
    from tasks.registry import chosen_by_hand

    terminal = terminal_for(as_json)
    home, address = home_and_registry(tracking_uri)
    with terminal.progress() as progress:
        done = chosen_by_hand.promote(
            home, address, name, version, why=why, by=by or None, progress=progress
        )
    _show(terminal, done)


def rollback(
    name: Name,
    why: Why,
    to: Annotated[
        str, typer.Option("--to", metavar="VERSION", help="Default: the champion before.")
    ] = "",
    by: By = "",
    tracking_uri: TrackingUri = "",
    as_json: AsJson = False,
) -> None:
    """Give the alias back to an earlier champion and pin it until `mergeflow unpin`."""
    from tasks.registry import chosen_by_hand

    terminal = terminal_for(as_json)
    home, address = home_and_registry(tracking_uri)
    with terminal.progress() as progress:
        done = chosen_by_hand.roll_back(
            home, address, name, to or None, why=why, by=by or None, progress=progress
        )
    _show(terminal, done)


def unpin(
    name: Name,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="For the history.")] = "",
    by: By = "",
    tracking_uri: TrackingUri = "",
    as_json: AsJson = False,
) -> None:
    """Let runs move the alias again. It stays where it is until one does."""
    from tasks.registry import chosen_by_hand

    terminal = terminal_for(as_json)
    home, address = home_and_registry(tracking_uri)
    done = chosen_by_hand.unpin(home, address, name, why=why or None, by=by or None)
    if as_json:
        terminal.give(done.model_dump(mode="json"))
        return
    if done.version is None:
        terminal.say(f"no version of {name} has the alias; the next run may give it")
    else:
        terminal.say(f"models:/{name}@champion stays version {done.version} until a run moves it")
    if done.pin is not None:
        by_whom = f" by {done.pin.by}, as typed" if done.pin.by else ""
        terminal.say(f"  it was pinned{by_whom} at {done.pin.at}: {done.pin.why}")


def history(name: Name, tracking_uri: TrackingUri = "", as_json: AsJson = False) -> None:
    """Print who had the alias, by whose doing and why. Exit code 4: lines were changed or cut."""
    from tasks.registry.history_report import report_history

    terminal = terminal_for(as_json)
    found = report_history(*home_and_registry(tracking_uri, make=False), name)
    if as_json:
        terminal.give(found.model_dump(mode="json", exclude_none=True) | {"holds": found.holds})
    else:
        _show_history(terminal, found)
    if not found.holds:
        raise typer.Exit(DOES_NOT_HOLD)


def _show(terminal: Terminal, done: ChosenByHand) -> None:
    if terminal.machine:
        terminal.give(done.model_dump(mode="json"))
        return
    had = f"was version {done.previous}" if done.previous else "was nobody's"
    was = "as before" if done.previous == done.version else f"it {had}"
    terminal.say(f"models:/{done.name}@champion is version {done.version} ({was}), pinned")
    terminal.say(f"  digest   {done.digest}")
    terminal.say(f"  serve    {done.path}")
    terminal.say(f"  runs leave it there until `mergeflow unpin {done.name}`")


def _show_history(terminal: Terminal, found: HistoryReport) -> None:
    from flows.terminal.console import add_row, table_of

    heads = ("line", "when (UTC)", "what", "version", "before", "how", "why")
    for chain in found.chains:
        table = table_of(*heads, wraps=("why",), edge=True)
        ended = {line.completes for line in chain.lines}
        for line in chain.lines:
            if line.number in ended:
                continue  # `moved` says it all; --json has both
            by = f" (by {line.by}, as typed)" if line.by else ""
            candidate = f" candidate {line.candidate}" if line.event == "kept" else ""
            when = line.at.replace("+00:00", "").replace("T", " ")
            told = f"{line.why or ''}{by}".strip()
            what = line.event.replace("_", " ") + (candidate if line.candidate else "")
            add_row(
                table,
                line.number,
                when,
                what,
                line.version or "-",
                line.previous or "-",
                line.how or "",
                told,
            )
        terminal.results.print(table)
        for problem in chain.problems:
            terminal.say(f"  - {problem}", style="bold red")
        state = "does not hold" if chain.problems else "holds"
        terminal.say(f"  chain {chain.chain} {state}: {chain.path}", style="dim")
    for note in found.notes:
        terminal.say(f"  {note}")
