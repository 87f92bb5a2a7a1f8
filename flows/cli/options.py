"""Options that several commands share, and how their values are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasks.units import read_size

if TYPE_CHECKING:
    from flows.terminal.console import Terminal
    from merge_core.homes.home import Home
    from merge_core.recipes.recipe import Recipe

RecipeFile = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe file: YAML in mergekit's notation.")
]
OutDirectory = Annotated[
    Path, typer.Argument(metavar="OUT", help="The directory to make. Must not exist yet.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value, for programs.")]
AllowUnrelated = Annotated[
    bool,
    typer.Option(
        "--allow-unrelated",
        help="Merge checkpoints of different origins too; a recipe says `allow_unrelated: true`.",
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse parameters that have no effect, not only warn.")
]
Device = Annotated[
    str, typer.Option(help="auto (a GPU when there is one), cpu, cuda or cuda:N.", metavar="DEVICE")
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=256, help="Worker threads. Default: one for each processor."),
]
TrackingUri = Annotated[
    str,
    typer.Option(
        metavar="URI",
        help="MLflow address. Default: $MLFLOW_TRACKING_URI, else the embedded database.",
    ),
]


def terminal_for(as_json: bool) -> Terminal:
    """Where a command writes. What shows progress is slow to import, and `--help` needs none."""
    from flows.terminal.console import Terminal

    return Terminal(machine=as_json)


def home_and_registry(tracking_uri: str, *, make: bool = True) -> tuple[Home, str]:
    """The home, and the address of the MLflow that a command asks.

    Args:
        make: whether a home that is not there is made.
    """
    from merge_core.homes.home import Home
    from tasks.registry.client import default_tracking_uri

    home = Home.discover(make=make)
    return home, tracking_uri or default_tracking_uri(home)


def read_recipe(
    terminal: Terminal, file: Path, *, allow_unrelated: bool = False, strict: bool = False
) -> Recipe:
    """A recipe as options change it, with a warning of what in it is often a mistake.

    Raises:
        RecipeError: it means nothing, or `strict` and it holds parameters without effect.
    """
    from merge_core.recipes.loading import load_recipe
    from merge_core.recipes.warnings import warnings_of

    recipe = load_recipe(file)
    if strict:
        recipe.refuse_idle_settings(str(file))
    for warning in warnings_of(recipe):
        terminal.warn(warning)
    return recipe.model_copy(update={"allow_unrelated": True}) if allow_unrelated else recipe


def read_bytes(text: str) -> int:
    """A number of bytes: `5GB`, `500 MB`, `1GiB`, `1000000`."""
    try:
        return read_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
