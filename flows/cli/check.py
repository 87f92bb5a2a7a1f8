"""The command `mergeflow check`: is a checkpoint still as mergeflow made it?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import AsJson, terminal_for

DOES_NOT_HOLD = 4
"""Exit code: something that was promised of a checkpoint is not so."""


def add_commands(app: typer.Typer) -> None:
    """Add this module's command to the program."""
    app.command(epilog="Example: `mergeflow check merged/`")(check)


def check(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A checkpoint that mergeflow wrote.")
    ],
    as_json: AsJson = False,
) -> None:
    """Read every byte of a merged checkpoint: the files listed, no others, each as it was.

    In a store also its place: the name of the directory, and the pointer of its plan. Exit code 4
    when something does not hold.
    """
    from flows.terminal.console import shown_path
    from merge_core.findings import counted
    from merge_core.operations.check import check_directory

    terminal = terminal_for(as_json)
    with terminal.progress() as progress:
        found = check_directory(directory, progress)
    if as_json:
        terminal.give(found.model_dump(mode="json") | {"holds": not found.problems})
    elif found.problems:
        terminal.say(f"{shown_path(found.path)} has changed since it was made:", style="bold red")
        for problem in found.problems:
            terminal.say(f"  - {problem}")
        terminal.say("  what to do: make it again with the command that made it")
    else:
        known = "the name of its directory" if found.in_store else "not compared: not in a store"
        terminal.say(
            f"{shown_path(found.path)}  {counted(found.files, 'file')}, none more, as made"
        )
        terminal.say(f"  object id {found.object_id} ({known})")
    if found.problems:
        raise typer.Exit(DOES_NOT_HOLD)
