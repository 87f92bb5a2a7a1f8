"""Commands around the home itself: which one is used and why, and which ones are believed."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.options import AsJson, terminal_for
from merge_core.errors import HomeError, MergeflowError

HomePath = Annotated[Path, typer.Argument(metavar="PATH", help="The home: a `.mergeflow`.")]

home_app = typer.Typer(
    help="The data directory: which one is used, and which ones are believed.",
    no_args_is_help=True,
)


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to the program."""
    app.add_typer(home_app, name="home")


@home_app.command(epilog="Example: `mergeflow home show`")
def show(as_json: AsJson = False) -> None:
    """Show the home that is used here, and whether it is believed. Exit code 2: it is not."""
    from merge_core.homes.belief import believe, find_home

    terminal, found = terminal_for(as_json), find_home()
    refusal: MergeflowError | None = None
    try:
        believe(found, make=False)
    except MergeflowError as error:
        refusal = error
    facts = {"path": str(found.path), "how": found.how.value, **_facts(found.path)}
    facts["believed"] = refusal is None
    if as_json:
        terminal.give(facts)
    else:
        for name, value in facts.items():
            terminal.say(f"{name.replace('_', ' '):<10}{_shown(value)}")
    if refusal is not None:
        raise refusal


@home_app.command(epilog="Example: `mergeflow home trust .mergeflow`")
def trust(path: HomePath) -> None:
    """Believe a home where it is found: you made it, or know what is in it."""
    from flows.terminal.console import Terminal
    from merge_core.homes.belief import trust_home

    trust_home(path)
    Terminal().say(f"{path} is in the list of your homes now")


@home_app.command(epilog="Example: `mergeflow home create`, in a project's directory")
def create(path: HomePath = Path(".mergeflow")) -> None:
    """Make a home; every command in the directory around it and below uses it from then on."""
    from flows.terminal.console import Terminal
    from merge_core.homes.belief import make_home

    if os.path.lexists(path):
        raise HomeError(
            "this exists already",
            where=str(path),
            mend=f"if it is a home of yours: mergeflow home trust {path}",
        )
    make_home(path.absolute())
    Terminal().say(f"{path} is a home now, and in the list of your homes")


@home_app.command("list", epilog="Example: `mergeflow home list --json`")
def list_homes(as_json: AsJson = False) -> None:
    """List the homes that you made or said to trust."""
    from merge_core.homes.known import known_homes, list_path

    terminal, known = terminal_for(as_json), known_homes()
    if as_json:
        terminal.give([entry.path for entry in known])
        return
    for entry in known:
        terminal.say(entry.path if Path(entry.path).is_dir() else f"{entry.path}  (not there now)")
    terminal.say(f"in {list_path()}", style="dim")


@home_app.command(epilog="Example: `mergeflow home forget old-project/.mergeflow`")
def forget(path: HomePath) -> None:
    """Take a home out of the list; nothing of it is removed."""
    from flows.terminal.console import Terminal
    from merge_core.homes.known import forget_home

    if not forget_home(path.absolute()):
        raise HomeError("this is not in the list", where=str(path), mend="see: mergeflow home list")
    Terminal().say(f"{path} is no longer in the list of your homes")


def _facts(path: Path) -> dict[str, Any]:
    """The facts of a home that show without reading its files."""
    from merge_core.files.owners import group_named, user_named
    from merge_core.homes.known import standing
    from merge_core.homes.store_access import PASSABLE

    try:
        status = path.stat()
    except OSError:
        return {"exists": False}
    mode = stat.S_IMODE(status.st_mode)
    facts: dict[str, Any] = {"owner": user_named(status.st_uid), "mode": f"{mode:04o}"}
    try:
        listed = standing(path)
        facts["in_list"] = listed.known
        if listed.moved_from is not None and not listed.known:
            facts["copy_of"] = listed.moved_from
    except HomeError as error:
        facts["in_list"] = error.what
    if mode == PASSABLE:
        facts["store"] = f"open to {group_named(status.st_gid)}"
    return facts


def _shown(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
