"""Whether a recipe names the data that its method measures the models on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge_core.errors import RecipeError
from merge_core.recipes.measurements import measurements

if TYPE_CHECKING:
    from merge_core.recipes.recipe import Recipe


def check_calibration(recipe: Recipe) -> None:
    """Refuse a calibration that nothing uses, or a method that lacks one.

    Raises:
        RecipeError: what is wrong with it.
    """
    method = recipe.method
    if method.calibration is None:
        if recipe.calibration is not None:
            raise RecipeError(
                f"{method.name} uses no data", where="calibration", mend="remove the block"
            )
    elif recipe.calibration is None:
        raise RecipeError(
            f"{method.name} measures the models on data, and none is named",
            where="calibration",
            mend='add calibration: {data: FILE.jsonl}, with a line {"text": ...} for each sample',
        )
    else:
        _check_measurable(recipe)
    needed = measurements(recipe)
    if recipe.vocabulary is not None and any(m.statistic == "fisher" for m in needed.values()):
        raise RecipeError(
            "what fisher measures belongs to the models' own tokens, which this rearranges",
            where="tokenizer" if recipe.tokenizer else "tokenizer_source",
            mend="remove it: models of one vocabulary need it not, and others cannot be merged"
            " by fisher",
        )


def _check_measurable(recipe: Recipe) -> None:
    for reference in recipe.input_references():
        if recipe.recipe_named(reference):
            raise RecipeError(
                f"'{reference}' is another recipe's result, which is on no disk and cannot be"
                f" measured for {recipe.merge_method}",
                where="models",
                mend="merge it first, and name the checkpoint",
            )
