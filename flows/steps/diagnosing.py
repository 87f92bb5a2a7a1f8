"""A diagnosis put together, for the command and for a pipeline that asks for one. In a pipeline it
stands in nobody's way: whatever goes wrong with it is a warning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.gpu_slot import device_slot
from flows.run_step import run_step
from flows.settings.pipeline import Pipeline
from flows.steps.artifacts import publish_report
from flows.steps.evaluating import threads_of
from flows.steps.loss_curves import Evaluations, search_half
from flows.steps.recipe_elsewhere import written_elsewhere
from merge_core.files.private import write_private
from merge_core.homes.home import Home
from merge_core.operations.diagnosis.weights import WeightDiagnosis
from merge_core.operations.examine import base_and_models
from merge_core.recipes.recipe import Recipe
from merge_core.records import SourceCheckpoint
from merge_core.text.plain import plain_log
from merge_core.verification.verify import CompatibilityReport
from tasks.diagnose import diagnose_task
from tasks.diagnosis.advice import advise
from tasks.diagnosis.curves import Curves
from tasks.diagnosis.diagnosis import Diagnosis
from tasks.diagnosis.page import diagnosis_html
from tasks.diagnosis.points import points_of
from tasks.diagnosis.start import starting_search
from tasks.diagnosis.summary import diagnosis_markdown
from tasks.evaluation.evaluators import Evaluators
from tasks.evaluation.suite import Suite
from tasks.progress import prefect_progress
from tasks.reports.names import distinct_names

_log = plain_log("mergeflow")

NO_BASE = (
    "The recipe names no base, so there are no task vectors. Name the checkpoint that the models"
    " were fine-tuned from as base_model to see lengths, conflicts, ranks and the playground."
)
NO_SUITE = (
    "Nothing was evaluated. With --suite SUITE merges along the way are evaluated on its search"
    " half, and the loss barrier is told."
)
_PLAINLY_ADDED = ("task_arithmetic", "dare_linear")


def curves_of(
    recipe: Recipe,
    sources: Mapping[str, SourceCheckpoint],
    how: Evaluations,
    weights: WeightDiagnosis | None,
) -> Curves:
    """The evaluations along every path of a recipe's models.

    Raises:
        MergeflowError: the base, or without one the first model, cannot be evaluated.
    """
    base, models = base_and_models(recipe, sources)
    references = [model.reference for model in models]
    cosines = weights.profile.overall.cosines if weights else ()
    paths, left_out = points_of(recipe, base.reference if base else None, references, cosines)
    return how.curves(paths, paths[0].points[0][1], left_out)


def put_together(
    name: str,
    recipe: Recipe,
    sources: Mapping[str, SourceCheckpoint],
    compatibility: CompatibilityReport,
    weights: WeightDiagnosis | None,
    curves: Curves | None,
) -> Diagnosis:
    """The diagnosis with its advice."""
    base, models = base_and_models(recipe, sources)
    references = tuple(model.reference for model in models)
    names = distinct_names(references)
    advice = advise(names, compatibility, weights, curves, strengths_of(recipe, references))
    return Diagnosis(
        name=name,
        recipe_digest=recipe.digest,
        method=recipe.merge_method,
        base=base.reference if base else None,
        models=references,
        compatibility=compatibility,
        weights=weights,
        no_weights="" if weights else NO_BASE,
        curves=curves,
        no_curves="" if curves else NO_SUITE,
        advice=advice,
    )


def files_of(
    found: Diagnosis, recipe: Recipe, beside: Path | None, home: Home, suite: str | None
) -> tuple[str, str]:
    """The page, and the search to start from."""
    names = [*([found.base] if found.base else []), *found.models]
    written = {name: written_elsewhere(name, beside, home) for name in names}
    search = starting_search(found, recipe, written, suite)
    dtypes = {"dtype": recipe.dtype, "out_dtype": recipe.out_dtype}
    further = {key: value for key, value in dtypes.items() if value}
    return diagnosis_html(found, search, written, further), search


def strengths_of(recipe: Recipe, models: Sequence[str]) -> dict[int, float]:
    """The factor on each task vector, where the recipe says it as one number."""
    if recipe.merge_method not in _PLAINLY_ADDED or recipe.parameters.get("normalize"):
        return {}
    scale = _number(recipe.parameters.get("lambda", 1.0))
    found = {}
    for entry in recipe.models:
        weight = _number(entry.parameters.get("weight", recipe.parameters.get("weight")))
        if entry.model in models and weight is not None and scale is not None:
            found[models.index(entry.model)] = weight * scale
    return found


def diagnose(
    pipeline: Pipeline,
    suite: Suite,
    sources: Mapping[str, SourceCheckpoint],
    compatibility: CompatibilityReport,
    home: Home,
    beside: Path | None,
    evaluators: Evaluators,
) -> dict[str, str | bytes]:
    """The diagnosis on the run's page and in the home; its files for the merge's run in MLflow.

    A pipeline that does not ask for it has none.
    """
    if not pipeline.diagnose:
        return {}
    try:
        return _diagnosed(pipeline, suite, sources, compatibility, home, beside, evaluators)
    except Exception as error:
        _log.warning(
            "warning: this run has no diagnosis (%s: %s); it goes on without",
            type(error).__name__,
            error,
        )
        return {}


def _diagnosed(
    pipeline: Pipeline,
    suite: Suite,
    sources: Mapping[str, SourceCheckpoint],
    compatibility: CompatibilityReport,
    home: Home,
    beside: Path | None,
    evaluators: Evaluators,
) -> dict[str, str | bytes]:
    recipe, how = pipeline.recipe, pipeline.evaluate
    base, models = base_and_models(recipe, sources)
    subject = f"{len(models)} models"
    weights = run_step(diagnose_task, base, models, subject=subject) if base and models else None
    evaluations = Evaluations(
        home,
        sources,
        search_half(suite),
        how.device,
        threads_of(how),
        evaluators,
        prefect_progress("diagnose"),
        device_slot(how.device),
    )
    curves = curves_of(recipe, sources, evaluations, weights)
    found = put_together(pipeline.name, recipe, sources, compatibility, weights, curves)
    page, search = files_of(found, recipe, beside, home, how.suite)
    place = home.path / "diagnoses" / f"{pipeline.name}.html"
    write_private(place, page)
    from tasks.diagnosis.plot import curves_png  # the drawing library is slow to import

    summary = diagnosis_markdown(found, search, str(place), curves_png(found))
    publish_report(pipeline.name, "diagnosis", summary)
    for advice in found.advice:
        _log.info("diagnosis: %s (%s): %s", advice.do, advice.sure, advice.because)
    return {
        "diagnosis/diagnosis.html": page,
        "diagnosis/search.yaml": search,
        "diagnosis/diagnosis.json": found.model_dump_json(indent=1),
    }


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
