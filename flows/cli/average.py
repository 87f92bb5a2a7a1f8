"""The command that averages a training run's checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import AsJson, terminal_for
from tasks.processes.shipped_files import example

if TYPE_CHECKING:
    from flows.settings.averaging import LoadedAveraging
    from flows.steps.average import NothingNew
    from flows.terminal.console import Terminal
    from tasks.records import MergeOutcome


def add_commands(app: typer.Typer) -> None:
    """Add this module's command to the program."""
    shown = example("averages", "zoo-prose.yaml")
    app.command(epilog=f"Example: `mergeflow average {shown}`")(average)


def average(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="An averaging configuration (YAML).")
    ],
    as_json: AsJson = False,
) -> None:
    """Average a training run's checkpoints. Exit code 0: promoted, or nothing new; 3: fell back."""
    from flows.cli.session import check_approval, session_for

    terminal = terminal_for(as_json)
    with session_for(config, terminal) as prefect:
        from flows.cli.run import show_outcome
        from flows.settings.averaging import check_places, load_averaging
        from flows.steps.average import NothingNew
        from flows.steps.endings import Ending

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
            terminal.say(f"{Ending.NOTHING_NEW.words}: {outcome.reason}", style="bold")
        else:
            show_outcome(terminal, outcome)
    if not isinstance(outcome, NothingNew) and outcome.state != "Promoted":
        raise typer.Exit(3)


def _run(loaded: LoadedAveraging, terminal: Terminal) -> MergeOutcome | NothingNew:
    from flows.average import average_checkpoints
    from flows.cli.run import run_flow

    averaging = loaded.averaging
    outcome: MergeOutcome | NothingNew = run_flow(
        terminal, average_checkpoints, averaging, loaded.beside, averaging.average.schedule
    )
    return outcome
