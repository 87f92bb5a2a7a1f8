"""Commands around whole pipelines: run one, evaluate, look at the ancestry, the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.options import AsJson, Device, Strict, TrackingUri


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to the program."""
    app.command(epilog="Example: `mergeflow demo`")(demo)
    app.command(epilog="Example: `mergeflow run configs/pipelines/zoo-good.yaml`")(run)
    app.command(epilog="Example: `mergeflow evaluate merged/ configs/suites/mine`")(evaluate)
    app.command(epilog="Example: `mergeflow lineage models:/zoo-good@champion`")(lineage)
    app.command(epilog='Example: `eval "$(mergeflow env)" && prefect server start`')(env)


def run(
    pipeline: Annotated[Path, typer.Argument(metavar="PIPELINE", help="A pipeline file (YAML).")],
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Verify, merge, evaluate and promote. Exit code 0: promoted; 3: fell back to the base."""
    from flows.cli_session import check_approval, session_for
    from flows.console import Terminal

    terminal = Terminal(machine=as_json)
    with session_for(pipeline, terminal) as prefect:
        from flows.pipeline import check_places, load_pipeline
        from flows.running import run_pipeline, show_outcome

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


def evaluate(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A directory, Hub id or models:/ address.")
    ],
    suite: Annotated[
        str, typer.Argument(metavar="SUITE", help="A suite directory or a shipped suite's name.")
    ],
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Score one checkpoint with lm-eval."""
    from flows.console import Terminal
    from flows.report_view import show_scores
    from merge_core.home import Home
    from tasks.evaluate import evaluate_checkpoint
    from tasks.locate import fetch_all
    from tasks.suite import load_suite

    terminal = Terminal(machine=as_json)
    home = Home.discover()
    loaded = load_suite(suite)
    with terminal.progress() as progress:
        source = fetch_all([checkpoint], home, progress=progress)[checkpoint]
        report = evaluate_checkpoint(
            source, loaded, device=device, scratch=home.scratch, progress=progress
        )
    if as_json:
        terminal.give(report.model_dump(mode="json"))
    else:
        show_scores(terminal, [report])


def lineage(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="models:/NAME@ALIAS or models:/NAME/VERSION.")
    ],
    tracking_uri: TrackingUri = "",
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a mermaid graph.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a registered version was made of, with the digest of every ancestor."""
    from flows.console import Terminal
    from merge_core.home import Home
    from tasks.lineage import lineage as trace
    from tasks.lineage import lineage_mermaid, render_lineage
    from tasks.registry_client import default_tracking_uri

    terminal = Terminal(machine=as_json)
    ancestry = trace(model, tracking_uri or default_tracking_uri(Home.discover()))
    if as_json:
        terminal.give(ancestry.model_dump(mode="json"))
    else:
        text = lineage_mermaid(ancestry) if mermaid else render_lineage(ancestry)
        terminal.say(text.rstrip("\n"))


def env() -> None:
    """Print the settings that make Prefect's and MLflow's own commands see mergeflow's data."""
    from shlex import quote

    from flows.stack_record import running_stack
    from merge_core.home import Home
    from tasks.registry_client import default_tracking_uri

    home = Home.discover()
    settings = {
        "MERGEFLOW_HOME": str(home.path),
        "PREFECT_HOME": str(home.prefect),
        "PREFECT_LOCAL_STORAGE_PATH": str(home.cache),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_TRACKING_URI": default_tracking_uri(home),
    }
    stack = running_stack(home)
    if stack is not None:
        settings |= stack.environment
    for name, value in settings.items():
        typer.echo(f"export {name}={quote(value)}")
    if stack is not None:
        typer.echo(f"# Prefect is on {stack.prefect}, MLflow on {stack.mlflow} (mergeflow up)")
        return
    typer.echo("# then: prefect server start      (runs and reports, http://127.0.0.1:4200)")
    typer.echo("#       mlflow ui                 (models and scores, http://127.0.0.1:5000)")


def demo(
    zoo: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where the example models are, or will be. Default: in the home."
        ),
    ] = None,
) -> None:
    """Train example models once, then run a merge that is promoted and one that falls back."""
    from flows.demo import run_demo

    if not run_demo(zoo):
        raise typer.Exit(1)
