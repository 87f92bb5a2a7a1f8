"""Commands that read a recipe and its checkpoints' headers, and show the merge that it means."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import (
    AllowUnrelated,
    AsJson,
    RecipeFile,
    Strict,
    read_bytes,
    read_recipe,
    terminal_for,
)

if TYPE_CHECKING:
    from flows.terminal.console import Terminal
    from merge_core.findings import Finding
    from merge_core.recipes.recipe import Recipe
    from merge_core.records import SourceCheckpoint


def plan(
    recipe: RecipeFile,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="List every tensor with its parameters and place.")
    ] = False,
    shard_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Largest weight file, e.g. 5GB or 500MB.")
    ] = "5GB",
    allow_unrelated: AllowUnrelated = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Show what a merge would do, or why it would be refused, without reading whole weights."""
    from flows.terminal.plan import plan_json, show_plan
    from merge_core.planning.plan import make_plan

    terminal = terminal_for(as_json)
    loaded = read_recipe(terminal, recipe, allow_unrelated=allow_unrelated, strict=strict)
    sources = _located(terminal, loaded, recipe)
    if sources is None:
        return
    refuse_or_warn(terminal, loaded, sources)
    made = make_plan(loaded, sources, shard_bytes=read_bytes(shard_size))
    if as_json:
        terminal.give(plan_json(made, tensors=tensors))
    else:
        show_plan(terminal, made, tensors=tensors)


def explain(
    recipe: RecipeFile,
    tensor: Annotated[
        str | None,
        typer.Argument(metavar="[TENSOR]", help="A tensor of the result, or a glob for several."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what every parameter of a tensor is, and which line of the recipe says so."""
    from flows.terminal.explain import chosen, explained_json, show_settings, show_tensors
    from merge_core.planning.explain import explain as explained
    from merge_core.planning.plan import open_inputs
    from merge_core.recipes.loading import load_recipe

    terminal = terminal_for(as_json)
    loaded = load_recipe(recipe)
    sources = _located(terminal, loaded, recipe)
    if sources is None:
        return
    inputs = open_inputs(loaded, sources)
    tensors = explained(loaded, inputs)
    if tensor is not None:
        tensors = chosen(tensors, tensor)
    if as_json:
        terminal.give([explained_json(each) for each in tensors])
    elif tensor is None:
        show_settings(terminal, loaded, tensors, inputs)
    else:
        show_tensors(terminal, tensors)


def refuse_or_warn(
    terminal: Terminal, recipe: Recipe, sources: dict[str, SourceCheckpoint]
) -> None:
    """Refuse checkpoints that do not belong together, and show what is odd about others.

    Raises:
        CompatibilityError: they do not belong together.
    """
    from merge_core.operations.examine import examine
    from merge_core.verification.verify import raise_for_errors

    report, idle = examine(recipe, sources)
    warnings: list[str | Finding] = [*report.warnings, *idle]
    for warning in warnings:
        terminal.warn(warning)
    raise_for_errors(report)


def _located(terminal: Terminal, recipe: Recipe, file: Path) -> dict[str, SourceCheckpoint] | None:
    """A recipe's checkpoints, if all are on this disk; else says so."""
    from merge_core.homes.home import Home
    from merge_core.verification.tolerance import Tolerance
    from tasks.sources.locate import locate_all

    preflight = locate_all(
        recipe.references(),
        Home.if_believed(),
        file.absolute().parent,
        tolerance=Tolerance.of(recipe),
    )
    if preflight.remote:
        listed = ", ".join(preflight.remote)
        terminal.say(f"on the Hub, not downloaded yet: {listed}; their headers fit")
        return None
    # A plan is made of headers; digests, which need every byte, are left to the merge.
    return preflight.undigested()
