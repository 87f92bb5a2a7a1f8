"""Whether the checkpoints of a recipe belong in one merge, and what its author should be warned of.

A command, a flow and the library ask it here, so that all of them refuse and warn of the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from merge_core.planning.explain import explain, has_filters, idle_filters
from merge_core.planning.plan import open_inputs
from merge_core.recipes.recipe import Recipe
from merge_core.records import SourceCheckpoint
from merge_core.verification.tolerance import Tolerance
from merge_core.verification.verify import CompatibilityReport, verify


class Examined(NamedTuple):
    """What was found of a recipe's checkpoints."""

    report: CompatibilityReport
    """Its errors forbid the merge (`raise_for_errors`)."""
    idle_filters: list[str]
    """The filters of the recipe that decide on no tensor, in words. Of checkpoints that do not
    belong together it has none."""


def examine(
    recipe: Recipe,
    sources: Mapping[str, SourceCheckpoint],
    *,
    scan_weights: bool = False,
    verify: Callable[..., CompatibilityReport] = verify,
) -> Examined:
    """Verify the checkpoints of a recipe as the recipe allows them to differ.

    Args:
        sources: a checkpoint for each of `recipe.references()`. Digests may be missing.
        scan_weights: read every weight in search of NaN and infinity. A merge does so anyway.
        verify: a step that does what `merge_core.verification.verify.verify` does.

    Raises:
        CompatibilityError, RecipeError: the checkpoints belong together, and cannot be planned.
    """
    base, models = base_and_models(recipe, sources)
    tolerance = Tolerance.of(recipe)
    report = verify(base, models, scan_weights=scan_weights, tolerance=tolerance)
    if not (report.ok and has_filters(recipe)):
        return Examined(report, [])
    inputs = open_inputs(recipe, sources)
    return Examined(report, idle_filters(recipe, explain(recipe, inputs), inputs))


def base_and_models(
    recipe: Recipe, sources: Mapping[str, SourceCheckpoint]
) -> tuple[SourceCheckpoint | None, list[SourceCheckpoint]]:
    """The base, if the recipe has one, and everything else that it names, in its order."""
    names = [name for name in recipe.references() if name != recipe.base_checkpoint]
    base = sources[recipe.base_checkpoint] if recipe.base_checkpoint else None
    return base, [sources[name] for name in names]
