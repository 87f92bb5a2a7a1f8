"""Commands for LoRA adapters: merge several into one, extract one from a fine-tune."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, cast

import typer

from flows.cli.options import AsJson, OutDirectory, RecipeFile, read_recipe, terminal_for

if TYPE_CHECKING:
    from flows.terminal.console import Terminal
    from merge_core.operations.adapters.records import AdapterManifest

_MOST_ROWS = 12

adapter_app = typer.Typer(
    help="LoRA adapters: merge several into one, extract one from a fine-tune.",
    no_args_is_help=True,
)


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to the program."""
    app.add_typer(adapter_app, name="adapter")


@adapter_app.command(epilog="Example: `mergeflow adapter merge recipe.yaml merged-adapter/`")
def merge(
    recipe: RecipeFile,
    out: OutDirectory,
    space: Annotated[
        str,
        typer.Option(
            metavar="SPACE",
            help="concat (exact, for linear methods; ranks add up), core (any method, on what the"
            " adapters share), or auto: concat where it can be.",
        ),
    ] = "auto",
    rank: Annotated[
        int | None,
        typer.Option(min=1, help="Cut every module to this rank; the error is reported."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Merge the adapters that a recipe lists as its models into one adapter."""
    from merge_core.homes.home import Home
    from merge_core.operations.adapters.merge import Space, merge_adapters
    from merge_core.operations.execute import refuse_existing
    from tasks.sources.locate import fetch_adapters, local_checkpoint

    if space not in ("auto", "concat", "core"):
        raise typer.BadParameter(f"'{space}' is no space; use auto, concat or core")
    terminal = terminal_for(as_json)
    loaded = read_recipe(terminal, recipe)
    refuse_existing(out)
    home, beside = Home.if_believed(), recipe.absolute().parent
    started = time.monotonic()
    with terminal.progress() as progress:
        names = [name for name in loaded.direct_references() if name != loaded.base_model]
        adapters = fetch_adapters(names, home, beside, progress=progress)
        base = local_checkpoint(loaded.base_model, home, beside) if loaded.base_model else None
        manifest = merge_adapters(
            loaded,
            adapters,
            out,
            space=None if space == "auto" else cast(Space, space),
            rank=rank,
            base=base,
            progress=progress,
        )
    _give(terminal, manifest, time.monotonic() - started)


@adapter_app.command(epilog="Example: `mergeflow adapter extract base/ expert/ lora/ --rank 32`")
def extract(
    base: Annotated[str, typer.Argument(metavar="BASE", help="What the expert was trained from.")],
    expert: Annotated[str, typer.Argument(metavar="EXPERT", help="The fine-tuned checkpoint.")],
    out: OutDirectory,
    rank: Annotated[int, typer.Option(min=1, help="Rank of every module, at most.")] = 16,
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB", help="Tensors to extract. Default: every matrix but embeddings."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Tensors not to extract.")
    ] = None,
    save_rest: Annotated[
        bool, typer.Option("--save-rest", help="Save whatever else changed in full.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="Stored type: float32, bfloat16 or float16.")] = (
        "float32"
    ),
    as_json: AsJson = False,
) -> None:
    """Write what a fine-tune learned as a LoRA adapter, by truncated SVD."""
    from merge_core.homes.home import Home
    from merge_core.operations.adapters.extract import ExtractOptions, extract_adapter
    from merge_core.operations.execute import refuse_existing
    from tasks.sources.locate import fetch_all

    terminal = terminal_for(as_json)
    refuse_existing(out)
    home = Home.if_believed()
    started = time.monotonic()
    options = ExtractOptions(
        rank=rank,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        save_rest=save_rest,
        dtype=dtype,
    )
    with terminal.progress() as progress:
        sources = fetch_all([base, expert], home, progress=progress)
        manifest = extract_adapter(sources[base], sources[expert], out, options, progress=progress)
    _give(terminal, manifest, time.monotonic() - started)


def _give(terminal: Terminal, manifest: AdapterManifest, duration: float) -> None:
    from flows.terminal.console import add_row, seconds, shown_path, size, table_of

    for warning in manifest.warnings:
        terminal.warn(warning)
    if terminal.machine:
        terminal.give(manifest.model_dump(mode="json"))
        return
    numbers = ("rank", "norm", "error")
    table = table_of("module", *numbers, right=numbers, wraps=numbers)
    worst = sorted(manifest.modules, key=lambda row: -row.error * row.norm)
    for row in worst[:_MOST_ROWS]:
        add_row(table, row.module, str(row.rank), f"{row.norm:.4g}", f"{row.error:.2%}")
    for rest in [row for row in manifest.rest if not row.saved][:_MOST_ROWS]:
        add_row(table, rest.tensor, "-", f"{rest.norm:.4g}", "100.00%")
    terminal.results.print(table)
    hidden = len(manifest.modules) - _MOST_ROWS
    if hidden > 0:
        terminal.say(f"and {hidden} more with less error, all in mergeflow_adapter.json")
    written = sum(file.size for file in manifest.files)
    how = f"{manifest.method} in {manifest.space} space" if manifest.method else "extracted"
    terminal.say(f"{shown_path(manifest.path)}  ({how}, {seconds(duration)})")
    terminal.say(f"  {manifest.parameters:,} parameters in {manifest.dtype}, {size(written)}")
    terminal.say(f"  relative error of the whole task vector {manifest.error:.2%}")
    terminal.say(f"  check  cd {shown_path(manifest.path)} && sha256sum -c --quiet SHA256SUMS")
