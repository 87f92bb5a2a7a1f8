"""Calibration: what a recipe says about the data that some methods measure its models on.

Measuring runs the models, so it happens outside the engine (`tasks.calibration.measure`); here is
only what has to be measured of which checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from merge_core.errors import RecipeError
from merge_core.recipes.parts import Calibration

if TYPE_CHECKING:
    from merge_core.recipes.recipe import Recipe


@dataclass(frozen=True)
class Measurement:
    """What a merge needs to know of one of its models."""

    statistic: str
    """`merge_core.methods.base.Method.calibration` of the method."""
    calibration: Calibration


def measurements(recipe: Recipe) -> dict[str, Measurement]:
    """What has to be measured before a recipe can be merged, by checkpoint reference.

    Raises:
        RecipeError: two documents of the recipe need different measurements of one checkpoint.
    """
    found: dict[str, Measurement] = {}
    for each in (*recipe.recipes, recipe):
        statistic = each.method.calibration
        if statistic is None or each.calibration is None:
            continue
        wanted = Measurement(statistic, each.calibration)
        for reference in each.input_references():
            if found.setdefault(reference, wanted) != wanted:
                raise RecipeError(
                    f"two documents measure '{reference}', in different ways",
                    where="calibration",
                    mend="use the same method and calibration in both, or merge in two steps",
                )
    return found
