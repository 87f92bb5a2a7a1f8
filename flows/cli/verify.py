"""The command that checks a recipe's checkpoints before a merge, or its result after it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import AllowUnrelated, AsJson, Strict, Threads, read_recipe, terminal_for

if TYPE_CHECKING:
    from flows.terminal.console import Terminal


def verify(
    recipe: Annotated[
        Path | None,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe file: YAML in mergekit's notation.",
            show_default=False,
        ),
    ] = None,
    scan: Annotated[
        bool, typer.Option(help="Read every weight in search of NaN and infinity.")
    ] = True,
    load: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Ask transformers whether it loads this checkpoint. With RECIPE, a merge of it is"
            " compared with its donor.",
        ),
    ] = None,
    threads: Threads = None,
    allow_unrelated: AllowUnrelated = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Check that a recipe's checkpoints belong in one merge. Exit code 2 when they do not."""
    from flows.terminal.reports import show_compatibility
    from merge_core.homes.home import Home
    from merge_core.operations.examine import examine
    from merge_core.verification.tolerance import Tolerance
    from merge_core.verification.verify import verify as verified
    from tasks.sources.locate import fetch_all

    terminal = terminal_for(as_json)
    if load is not None:
        _verify_loading(terminal, load, recipe, as_json)
        return
    if recipe is None:
        raise typer.BadParameter("name a recipe, or a checkpoint with --load")
    loaded = read_recipe(terminal, recipe, allow_unrelated=allow_unrelated, strict=strict)
    with terminal.progress() as progress:
        sources = fetch_all(
            loaded.references(),
            Home.if_believed(),
            recipe.absolute().parent,
            progress=progress,
            tolerance=Tolerance.of(loaded),
        )
        how = partial(verified, threads=threads, progress=progress)
        report, idle = examine(loaded, sources, scan_weights=scan, verify=how)
    for warning in idle:
        terminal.warn(warning)
    if as_json:
        terminal.give(report.model_dump(mode="json") | {"ok": report.ok})
    else:
        show_compatibility(terminal, report)
    if not report.ok:
        raise typer.Exit(2)


def _verify_loading(
    terminal: Terminal, directory: Path, recipe: Path | None, as_json: bool
) -> None:
    """Show what transformers says of a checkpoint. Exit code 2 when it is worse than the donor."""
    from merge_core.checkpoints.checkpoint import open_checkpoint
    from merge_core.homes.home import Home
    from merge_core.recipes.loading import load_recipe
    from tasks.loading.check import check_loading, check_merged
    from tasks.sources.locate import fetch_all

    open_checkpoint(directory)
    home = Home.discover()
    if recipe is None:
        report = check_loading(directory, scratch=home.scratch)
    else:
        loaded = load_recipe(recipe)
        with terminal.progress() as progress:
            beside = recipe.absolute().parent
            sources = fetch_all(loaded.references(), home, beside, progress=progress)
        report = check_merged(directory, loaded, sources, home.scratch)
    if as_json:
        terminal.give(report.model_dump(mode="json") | {"ok": report.ok})
    elif report.ok:
        (terminal.say if report.checked else terminal.warn)(f"{directory}: {report.sentence}")
    else:
        for line in report.worse:
            terminal.say(f"{directory}: {line}", style="bold red")
    if not report.ok:
        raise typer.Exit(2)
