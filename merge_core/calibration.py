"""Calibration: what a recipe says about the data that some methods measure its models on.

Measuring runs the models, so it happens outside the engine (`tasks.calibration`); here is only what
has to be measured of which checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from merge_core.errors import RecipeError
from merge_core.records import Record

if TYPE_CHECKING:
    from merge_core.recipe import Recipe


class Calibration(Record):
    """The `calibration:` block of a recipe: a few samples of text, and how they are read."""

    data: str = Field(min_length=1)
    """A JSONL file; a path starts from the recipe's own directory."""
    field: str = Field(default="text", min_length=1)
    """The key of a line's text. A line with `prompt` and `completion` needs none."""
    samples: int = Field(default=64, ge=1, le=1 << 20)
    """How many lines are drawn."""
    max_length: int = Field(default=256, ge=2, le=1 << 20)
    """Tokens of a sample; the rest of it is cut off."""
    batch_size: int = Field(default=4, ge=1, le=1 << 12)
    """Samples that go through a model at once. Squared gradients are taken one sample at a time."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    """Of the draw."""


@dataclass(frozen=True)
class Measurement:
    """What a merge needs to know of one of its models."""

    statistic: str
    """`merge_core.methods.base.Method.statistics` of the method."""
    calibration: Calibration


def measurements(recipe: Recipe) -> dict[str, Measurement]:
    """What has to be measured before a recipe can be merged, by checkpoint reference.

    Raises:
        RecipeError: two documents of the recipe need different measurements of one checkpoint.
    """
    found: dict[str, Measurement] = {}
    for each in (*recipe.recipes, recipe):
        statistic = each.method.statistics
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


def check_calibration(recipe: Recipe) -> None:
    """Refuse a calibration that nothing uses, or a method that lacks one.

    Raises:
        RecipeError: what is wrong with it.
    """
    method = recipe.method
    if method.statistics is None:
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
