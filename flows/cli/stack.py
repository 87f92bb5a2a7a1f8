"""Commands around the local stack: start it, look at it, switch its schedules."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import AsJson, terminal_for


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to the program."""
    app.command(epilog="Example: `mergeflow up --prefect-port 4300 --mlflow-port 5100`")(up)
    app.command(epilog="Example: `mergeflow status --json`")(status)
    app.command(epilog="Example: `mergeflow schedule merge-scheduled/nightly on`")(schedule)


def up(
    prefect_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, metavar="PORT", help="Default: 4200, or the next free."),
    ] = None,
    mlflow_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, metavar="PORT", help="Default: 5000, or the next free."),
    ] = None,
) -> None:
    """Start Prefect, MLflow, a worker and the deployments on this machine, until Ctrl-C."""
    from flows.stack.up import bring_up
    from flows.terminal.console import Terminal
    from merge_core.homes.home import Home

    bring_up(Terminal(), Home.discover(), prefect_port, mlflow_port)


def status(as_json: AsJson = False) -> None:
    """Show the local stack: health, addresses, schedules, last runs. Exit code 1: not healthy."""
    from flows.stack.status import read_status, show_status
    from merge_core.homes.home import Home

    terminal = terminal_for(as_json)
    found = read_status(Home.discover(make=False))
    if as_json:
        terminal.give(found.as_json())
    else:
        show_status(terminal, found)
    if not found.healthy:
        raise typer.Exit(1)


def schedule(
    name: Annotated[
        str, typer.Argument(metavar="DEPLOYMENT/SCHEDULE", help="As `mergeflow status` lists it.")
    ],
    switch: Annotated[str, typer.Argument(metavar="on|off", help="Whether it starts runs.")],
) -> None:
    """Switch a schedule on or off."""
    from flows.stack.schedules import switch_schedule
    from flows.terminal.console import Terminal
    from merge_core.homes.home import Home

    if switch not in ("on", "off"):
        raise typer.BadParameter(f"'{switch}': say on or off")
    Terminal().say(switch_schedule(Home.discover(make=False), name, active=switch == "on"))
