"""The command that looks at a recipe's models before there is a merge, and says what to try."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import AsJson, Device, RecipeFile, Threads, terminal_for
from merge_core.errors import OutputError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flows.terminal.console import Terminal
    from merge_core.homes.home import Home
    from merge_core.operations.diagnosis.weights import WeightDiagnosis
    from merge_core.progress import Progress
    from merge_core.recipes.recipe import Recipe
    from merge_core.records import SourceCheckpoint
    from tasks.diagnosis.curves import Curves
    from tasks.diagnosis.diagnosis import Diagnosis
    from tasks.evaluation.suite import Suite


def add_commands(app: typer.Typer) -> None:
    """Add this module's command to the program."""
    app.command(epilog="Example: `mergeflow diagnose recipe.yaml --suite starter`")(diagnose)


def diagnose(
    recipe: RecipeFile,
    suite: Annotated[
        str,
        typer.Option(
            metavar="SUITE",
            help="Also evaluate merges on the way, on the search half of this suite: a directory or"
            " a shipped suite's name.",
        ),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write the page to this new file, and the search beside it. Default: after the"
            " recipe's name, in the current directory; with --json none.",
        ),
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Look at a recipe's models before a merge: do they fit, where do they conflict, what to try.

    Writes one HTML page with plots and a playground, and a search file to start from.
    """
    from flows.terminal.console import shown_path
    from merge_core.homes.home import Home
    from merge_core.recipes.loading import load_recipe
    from tasks.evaluation.report_file import check_new

    terminal = terminal_for(as_json)
    loaded = load_recipe(recipe)
    if out is None and not as_json:
        out = Path(f"{recipe.stem}-diagnosis.html")
    places: tuple[Path, ...] = ()
    if out is not None:
        check_new(out)
        places = (out, out.with_name(f"{out.stem}-search.yaml"))
        check_new(places[1])
    home, beside = Home.discover(), recipe.absolute().parent
    found = _diagnosed(terminal, recipe, loaded, suite, home, device, threads)
    if places:
        from flows.steps.diagnosing import files_of

        files = files_of(found, loaded, beside, home, _elsewhere(suite))
        _write(dict(zip(places, files, strict=True)))
    if as_json:
        terminal.give(found.model_dump(mode="json", exclude={"weights": {"sample"}}))
        return
    from flows.terminal.diagnosis import show_diagnosis

    show_diagnosis(terminal, found)
    for what, place in zip(("page", "search"), places, strict=True):
        terminal.say(f"  {what:8}{shown_path(place)}")


def _diagnosed(
    terminal: Terminal,
    file: Path,
    recipe: Recipe,
    suite: str,
    home: Home,
    device: str,
    threads: int | None,
) -> Diagnosis:
    from flows.steps.diagnosing import put_together
    from merge_core.operations.examine import base_and_models
    from merge_core.verification.tolerance import Tolerance
    from merge_core.verification.verify import verify
    from tasks.diagnose import diagnosed
    from tasks.sources.locate import fetch_all

    _check_enough(recipe, file)
    half = _half(suite, home) if suite else None
    tolerance = Tolerance.of(recipe)
    beside = file.absolute().parent
    with terminal.progress() as progress:
        sources = fetch_all(recipe.references(), home, beside, progress, tolerance=tolerance)
        base, models = base_and_models(recipe, sources)
        compatibility = verify(base, models, scan_weights=False, tolerance=tolerance)
        weights = None
        if base is not None:
            weights = diagnosed(home.cache, base, models, threads=threads, progress=progress)
        curves = None
        if half is not None:
            curves = _curves(recipe, sources, half, home, device, threads, weights, progress)
    return put_together(file.stem, recipe, sources, compatibility, weights, curves)


def _check_enough(recipe: Recipe, file: Path) -> None:
    models = [name for name in recipe.references() if name != recipe.base_checkpoint]
    if not models or (recipe.base_checkpoint is None and len(models) < 2):
        raise RecipeError(
            "a diagnosis compares checkpoints, and this recipe names only one",
            where=str(file),
            mend="name the checkpoint that the model was fine-tuned from as base_model, or list"
            " another model",
        )


def _half(suite: str, home: Home) -> Suite:
    from flows.steps.loss_curves import search_half
    from merge_core.homes.variables import expand_variables
    from tasks.evaluation.suite import load_suite

    return search_half(load_suite(expand_variables(suite, home)))


def _curves(
    recipe: Recipe,
    sources: Mapping[str, SourceCheckpoint],
    suite: Suite,
    home: Home,
    device: str,
    threads: int | None,
    weights: WeightDiagnosis | None,
    progress: Progress,
) -> Curves:
    from flows.steps.diagnosing import curves_of
    from flows.steps.loss_curves import Evaluations
    from tasks.evaluation.evaluators import Evaluators
    from tasks.evaluation.needs import check_needs

    check_needs(suite, sources[recipe.donor].directory)
    with Evaluators(home.scratch) as evaluators:
        how = Evaluations(home, sources, suite, device, threads, evaluators, progress)
        return curves_of(recipe, sources, how, weights)


def _elsewhere(suite: str) -> str | None:
    """The suite as a file in another directory has to name it."""
    name, _, _ = suite.partition("#")
    if not name or name.startswith("$"):
        return name or None
    return str(Path(name).absolute()) if Path(name).exists() else name


def _write(contents: Mapping[Path, str]) -> None:
    """All of them, or none: what was there would keep the same command from writing the rest."""
    from merge_core.files.new_file import write_new

    written: list[Path] = []
    try:
        for place, content in contents.items():
            write_new(place, content)
            written.append(place)
    except BaseException as error:
        for each in written:
            each.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise OutputError(
            f"cannot be written: {error.strerror}",
            where=str(place),
            mend="see that you may write there and that there is room, then run it again",
        ) from None
