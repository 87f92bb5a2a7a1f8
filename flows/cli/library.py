"""Commands that need the library alone: they start fast, without Prefect, MLflow or lm-eval."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import (
    AllowUnrelated,
    AsJson,
    Device,
    OutDirectory,
    RecipeFile,
    Strict,
    Threads,
    read_bytes,
    read_recipe,
    terminal_for,
)
from flows.cli.recipes import explain, plan, refuse_or_warn
from flows.cli.verify import verify
from merge_core.errors import OutputError, RecipeError
from merge_core.runtime.compute import Compute

if TYPE_CHECKING:
    from flows.terminal.console import Terminal
    from merge_core.distributed.job import Executor
    from merge_core.homes.home import Home
    from merge_core.recipes.recipe import Recipe
    from merge_core.records import CheckpointManifest

task_vector_app = typer.Typer(
    help="Task vectors as files: what a fine-tune learned, apart from its base.",
    no_args_is_help=True,
)


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to the program."""
    app.command(epilog="Example: `mergeflow merge recipe.yaml merged/ --threads 4`")(merge)
    app.command(epilog="Example: `mergeflow plan recipe.yaml --tensors`")(plan)
    app.command(epilog="Example: `mergeflow explain recipe.yaml '*.layers.3.*'`")(explain)
    app.command(epilog="Example: `mergeflow verify recipe.yaml --json`")(verify)
    app.command(epilog="Example: `mergeflow profile recipe.yaml --plot vectors.png`")(profile)
    app.command(epilog="Example: `mergeflow methods ties`")(methods)
    app.add_typer(task_vector_app, name="task-vector")


def merge(
    recipe: RecipeFile,
    out: OutDirectory,
    device: Device = "auto",
    threads: Threads = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1, max=256, help="Compute in this many processes; --threads is of each of them."
        ),
    ] = None,
    shard_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Largest weight file, e.g. 5GB or 500MB.")
    ] = "5GB",
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the random methods; overrides the recipe's.")
    ] = None,
    copy_code: Annotated[
        bool,
        typer.Option(
            "--copy-code", help="Copy the first checkpoint's own .py files: you trust it."
        ),
    ] = False,
    allow_unrelated: AllowUnrelated = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Merge checkpoints into a new directory, without evaluation or registry."""
    from flows.terminal.console import seconds
    from merge_core.homes.home import Home
    from merge_core.operations.execute import refuse_existing
    from merge_core.operations.merge import merge as run_merge
    from merge_core.runtime.timings import Timings
    from merge_core.verification.tolerance import Tolerance
    from tasks.calibration.measure import calibrate, calibrate_all, check_data
    from tasks.sources.locate import fetch_all

    shard_bytes = read_bytes(shard_size)
    terminal = terminal_for(as_json)
    loaded = read_recipe(terminal, recipe, allow_unrelated=allow_unrelated, strict=strict)
    if seed is not None:
        loaded = _seeded(loaded, seed)
    refuse_existing(out)
    home, beside = Home.if_believed(), recipe.absolute().parent
    check_data(loaded, beside)
    started = time.monotonic()
    with terminal.progress() as progress:
        tolerance = Tolerance.of(loaded)
        sources = fetch_all(loaded.references(), home, beside, progress, tolerance=tolerance)
        found = time.monotonic()
        refuse_or_warn(terminal, loaded, sources)
        measure = partial(
            calibrate, home=home, beside=beside, device=device, threads=threads, progress=progress
        )
        calibration = calibrate_all(loaded, sources, measure)
        checked, timings = time.monotonic(), Timings()
        manifest = run_merge(
            loaded,
            sources,
            home=home,
            out=out,
            compute=Compute(device, threads),
            shard_bytes=shard_bytes,
            check=False,
            calibration=calibration,
            copy_code=copy_code,
            executor=_processes(processes, home),
            progress=progress,
            timings=timings,
        )
    ended = time.monotonic()
    _give_manifest(terminal, manifest, ended - started)
    if not as_json:
        terminal.say(
            f"  time   inputs identified {seconds(found - started)}, checked"
            f" {seconds(checked - found)}, merged {seconds(ended - checked)};"
            f" of all threads: {timings}"
        )


def profile(
    recipe: RecipeFile,
    plot: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Also draw the profile into this file.")
    ] = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Measure the task vectors of a recipe's models: norms, cosines, sign conflicts, layers."""
    from flows.terminal.reports import show_profile
    from merge_core.homes.home import Home
    from merge_core.operations.profile import profile_task_vectors
    from merge_core.recipes.loading import load_recipe
    from tasks.sources.locate import fetch_all

    terminal = terminal_for(as_json)
    loaded = load_recipe(recipe)
    if loaded.base_checkpoint is None:
        raise RecipeError(
            "a task vector is a difference from a base, and this recipe names no checkpoint as one",
            where=str(recipe),
            mend="name the checkpoint that the models were fine-tuned from as base_model",
        )
    if plot is not None and not plot.parent.exists():
        raise OutputError(
            "there is no such directory", where=str(plot.parent), mend="make it, or name another"
        )
    with terminal.progress() as progress:
        sources = fetch_all(
            loaded.references(), Home.if_believed(), recipe.absolute().parent, progress=progress
        )
        base = sources.pop(loaded.base_checkpoint)
        measured = profile_task_vectors(
            base, list(sources.values()), threads=threads, progress=progress
        )
    if plot is not None:
        from tasks.reports.profile_plot import profile_figure_png

        plot.write_bytes(profile_figure_png(measured))
    if as_json:
        terminal.give(measured.model_dump(mode="json"))
    else:
        show_profile(terminal, measured)


def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Show this method in full.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the merge methods, or explain one: formula, parameters, paper, a minimal recipe."""
    from flows.terminal.methods import method_json, show_method, show_methods, show_step, step_json
    from merge_core.methods import all_methods, method_named
    from merge_core.methods.post_steps import POST_STEPS

    terminal = terminal_for(as_json)
    if name is None:
        everything = all_methods().values()
        if as_json:
            terminal.give([method_json(method) for method in everything])
        else:
            show_methods(terminal, everything, POST_STEPS.values())
        return
    if name in POST_STEPS:
        if as_json:
            terminal.give(step_json(POST_STEPS[name]))
        else:
            show_step(terminal, POST_STEPS[name])
        return
    method = method_named(name, where="NAME")
    if as_json:
        terminal.give(method_json(method))
    else:
        show_method(terminal, method)


@task_vector_app.command(epilog="Example: `mergeflow task-vector extract base/ expert/ vector/`")
def extract(
    base: Annotated[str, typer.Argument(metavar="BASE", help="What the expert was trained from.")],
    expert: Annotated[str, typer.Argument(metavar="EXPERT", help="The fine-tuned checkpoint.")],
    out: OutDirectory,
    dtype: Annotated[str, typer.Option(help="Stored type: float32, bfloat16 or float16.")] = (
        "float32"
    ),
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Write expert minus base as a directory of deltas."""
    from merge_core.homes.home import Home
    from merge_core.operations.execute import refuse_existing
    from merge_core.operations.task_vectors import extract_task_vector
    from tasks.sources.locate import fetch_all

    terminal = terminal_for(as_json)
    refuse_existing(out)
    home = Home.if_believed()
    started = time.monotonic()
    with terminal.progress() as progress:
        sources = fetch_all([base, expert], home, progress=progress)
        manifest = extract_task_vector(
            sources[base],
            sources[expert],
            out,
            home=home,
            dtype=dtype,
            compute=Compute(device, threads),
            progress=progress,
        )
    _give_manifest(terminal, manifest, time.monotonic() - started)


@task_vector_app.command(
    epilog="Example: `mergeflow task-vector apply base/ vector/ less-of-it/ --scale -0.5`"
)
def apply(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The checkpoint to change.")],
    vector: Annotated[Path, typer.Argument(metavar="VECTOR", help="An extracted task vector.")],
    out: OutDirectory,
    scale: Annotated[float, typer.Option(help="Negative removes what the expert learned.")] = 1.0,
    any_base: Annotated[
        bool, typer.Option("--any-base", help="Allow another base than the vector's own.")
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Write base plus scale times a task vector as a checkpoint."""
    from merge_core.homes.home import Home
    from merge_core.operations.execute import refuse_existing
    from merge_core.operations.task_vectors import apply_task_vector
    from tasks.sources.locate import fetch_all

    terminal = terminal_for(as_json)
    refuse_existing(out)
    home = Home.if_believed()
    started = time.monotonic()
    with terminal.progress() as progress:
        source = fetch_all([base], home, progress=progress)[base]
        manifest = apply_task_vector(
            source,
            vector,
            out,
            home=home,
            scale=scale,
            any_base=any_base,
            compute=Compute(device, threads),
            progress=progress,
        )
    _give_manifest(terminal, manifest, time.monotonic() - started)


def _processes(count: int | None, home: Home) -> Executor | None:
    """Child processes that compute, if any were asked for."""
    if count is None:
        return None
    from tasks.processes.merge import Processes

    return Processes(count, home.logs)


def _seeded(recipe: Recipe, seed: int) -> Recipe:
    """A recipe, and every recipe that it uses by name, with another seed."""
    earlier = tuple(_seeded(each, seed) for each in recipe.recipes)
    return recipe.model_copy(update={"seed": seed, "recipes": earlier})


def _give_manifest(terminal: Terminal, manifest: CheckpointManifest, duration: float) -> None:
    from flows.terminal.console import seconds, shown_path, size
    from merge_core.findings import some

    if terminal.machine:
        terminal.give(manifest.model_dump(mode="json"))
        return
    written = sum(file.size for file in manifest.files)
    terminal.say(f"{shown_path(manifest.path)}  ({manifest.method}, {seconds(duration)})")
    terminal.say(f"  {manifest.parameters:,} parameters in {manifest.dtype}, {size(written)}")
    terminal.say(f"  digest {manifest.digest}")
    left, code = manifest.taken_over.left_behind, manifest.taken_over.code_left_behind
    if left:
        hint = f"; --copy-code copies {', '.join(code)}" if code else ""
        terminal.say(f"  not copied  {some(left, 8)}{hint}")
    terminal.say(f"  check  cd {shown_path(manifest.path)} && sha256sum -c --quiet SHA256SUMS")
