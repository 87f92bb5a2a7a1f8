"""Commands around whole pipelines: run one, the demo, the settings."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from flows.cli.options import AsJson, Strict, terminal_for
from flows.environment.no_telemetry import NO_TELEMETRY
from tasks.processes.shipped_files import example


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to the program."""
    app.command(epilog="Example: `mergeflow demo`")(demo)
    app.command(epilog=f"Example: `mergeflow run {example('pipelines', 'zoo-good.yaml')}`")(run)
    app.command(epilog='Example: `eval "$(mergeflow env)" && prefect flow-run ls`')(env)


def run(
    pipeline: Annotated[Path, typer.Argument(metavar="PIPELINE", help="A pipeline file (YAML).")],
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Verify, merge, evaluate and promote. Exit code 0: promoted; 3: fell back to the base."""
    from flows.cli.session import check_approval, session_for

    terminal = terminal_for(as_json)
    with session_for(pipeline, terminal) as prefect:
        from flows.cli.run import run_pipeline, show_outcome
        from flows.settings.pipeline import check_places, load_pipeline

        loaded = load_pipeline(pipeline)
        check_places(loaded)
        if strict:
            loaded.pipeline.recipe.refuse_idle_settings(str(pipeline))
        check_approval(loaded.pipeline.promote, prefect, pipeline)
        prefect.ready()
        outcome = run_pipeline(loaded, terminal)
        if as_json:
            terminal.give(outcome.model_dump(mode="json"))
        else:
            show_outcome(terminal, outcome)
    if outcome.state != "Promoted":
        raise typer.Exit(3)


def env() -> None:
    """Print the settings that make Prefect's and MLflow's own commands see mergeflow's data.

    The password is not printed: the shell reads it from its file.
    """
    from merge_core.homes.home import Home
    from tasks.registry.client import default_tracking_uri
    from tasks.servers.login import (
        CLIENT_VARIABLE,
        SERVER_VARIABLE,
        home_login,
        stack_login,
        stack_login_file,
    )
    from tasks.servers.stack_record import running_stack

    home = Home.discover(make=False)
    settings = {
        "MERGEFLOW_HOME": str(home.path),
        "PREFECT_HOME": str(home.prefect),
        "PREFECT_LOCAL_STORAGE_PATH": str(home.cache),
        **NO_TELEMETRY,
        "MLFLOW_TRACKING_URI": default_tracking_uri(home),
    }
    stack = running_stack(home)
    if stack is not None:
        settings |= stack.addresses
    for name, value in settings.items():
        typer.echo(f"export {name}={quote(value)}")
    login = stack_login(home) if stack is not None else home_login(home)
    typer.echo(f'export {CLIENT_VARIABLE}="$(cat {quote(str(stack_login_file(home)))})"')
    if stack is None:  # a server that Prefect starts by itself asks for it too
        typer.echo(f'export {SERVER_VARIABLE}="${CLIENT_VARIABLE}"')
        typer.echo("# `mergeflow up` shows runs and models in a browser")
        return
    if settings["MLFLOW_TRACKING_URI"] == stack.mlflow:
        typer.echo(f"export MLFLOW_TRACKING_USERNAME={quote(login.user)}")
        typer.echo(f'export MLFLOW_TRACKING_PASSWORD="${{{CLIENT_VARIABLE}#*:}}"')
    typer.echo(f"# Prefect is on {stack.prefect}, MLflow on {stack.mlflow} (mergeflow up)")


def demo(
    zoo: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where the example models are, or will be. Default: in the home."
        ),
    ] = None,
) -> None:
    """Train example models once, then run a merge that is promoted and one that falls back."""
    from flows.cli.demo import run_demo

    if not run_demo(zoo):
        raise typer.Exit(1)
