"""A rehearsal of a pipeline: every check that needs no weights, and the size of the result."""

from __future__ import annotations

from pathlib import Path

from flows.run_step import run_step
from flows.settings.pipeline import Pipeline
from flows.steps.artifacts import publish_report, with_warnings
from flows.steps.early_checks import check_pipeline, suite_of
from flows.steps.merge import refuse_or_warn
from flows.terminal.console import size
from merge_core.homes.home import Home
from merge_core.operations.examine import examine
from merge_core.planning.plan import make_plan
from merge_core.recipes.warnings import warnings_of
from merge_core.text.markdown import block, inline, table
from merge_core.text.plain import LONGEST
from merge_core.verification.tolerance import Tolerance
from tasks.resolve import preflight_task


def rehearse(pipeline: Pipeline, beside: Path | None) -> str:
    """Check a pipeline by its suite and its checkpoints' headers; says what a run would do.

    Raises:
        MergeflowError: the fault at which a run of this pipeline would stop.
    """
    home, recipe = Home.discover(), pipeline.recipe
    suite = suite_of(pipeline, home)
    check_pipeline(pipeline, suite, home, beside)
    uri = pipeline.register_as.tracking_uri or ""
    references = recipe.references()
    arguments = (references, home.path, beside, uri, Tolerance.of(recipe))
    found = run_step(preflight_task, *arguments, subject="headers")
    warnings = warnings_of(recipe)
    said = f"{len(references)} checkpoints fit; "
    if found.remote:
        said += f"to be downloaded: {', '.join(found.remote)}"
    else:
        sources = found.undigested()
        examined = examine(recipe, sources)
        refuse_or_warn(pipeline, examined)
        warnings += examined.idle_filters
        plan = make_plan(recipe, sources)
        said += (
            f"{recipe.merge_method} would write {len(plan.tensors)} tensors,"
            f" {size(plan.output_bytes)}"
        )
    head = ["checkpoint"]
    listed = table(head, [[reference] for reference in references], head)
    measured = ", ".join(task.task for task in suite.tasks)
    lines = [f"Nothing was merged. {inline(said, LONGEST)}.", "", *listed, ""]
    lines += [
        inline(f"Suite {suite.name}: {measured}", LONGEST),
        "",
        block(recipe.to_yaml(), "yaml"),
    ]
    page = "\n".join(lines)
    publish_report(pipeline.name, "dry-run", with_warnings(page, warnings))
    return said
