"""What a recipe is warned of: what is allowed and often a mistake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from merge_core.recipes.checks import checked_levels

if TYPE_CHECKING:
    from merge_core.recipes.recipe import Recipe

_MANY_MODELS = 4


def warnings_of(recipe: Recipe) -> list[str]:
    """What is allowed but often a mistake, in words, of a recipe and of those that it uses."""
    earlier = [
        f"recipe {each.name}: {text}" for each in recipe.recipes for text in _own_warnings(each)
    ]
    return [*recipe.idle_settings(), *earlier, *_own_warnings(recipe)]


def _own_warnings(recipe: Recipe) -> list[str]:
    found = []
    crowd = max(len(recipe.inputs(part)) for part in recipe.parts)
    # Means of many checkpoints of one run are the rule, and nothing in them is summed up.
    if crowd > _MANY_MODELS and recipe.merge_method != "linear":
        found.append(f"{crowd} models are merged; interference grows with their number")
    found += [
        f"{where} is {value:g}: a scale above 1 often leaves the loss basin, in which models can be"
        " merged (1 and less are safer)"
        for where, value in _scales(recipe)
        if abs(value) > 1
    ]
    if recipe.merge_method == "task_arithmetic" and any(
        "density" in level
        for part in recipe.parts
        for member in recipe.inputs(part)
        for level in recipe.levels(part, member)
    ):
        found.append("density has no effect in task_arithmetic; use ties or dare_linear")
    return found + _lists_for_all(recipe)


def _lists_for_all(recipe: Recipe) -> list[str]:
    """Gradients that look like a weight for each model: with as many numbers as there are models,
    where they hold for all of them."""
    models = sum(reference != recipe.base_model for reference in recipe.input_references())
    return [
        f"parameters.{name} is a gradient over the layers, the same for every model; for a {name}"
        f" of each model, write `parameters: {{{name}: ...}}` beside it"
        for name in ("weight", "density")
        if models > 1
        and isinstance(value := recipe.parameters.get(name), list | tuple)
        and len(value) == models
        and not any(isinstance(item, Mapping) for item in value)
    ]


def _largest_number(value: Any) -> Sequence[float]:
    """The number of largest magnitude in a setting, in any of its forms; nothing for None."""
    if isinstance(value, Mapping):
        value = value.get("value")
    if isinstance(value, list | tuple):
        numbers = [number for item in value for number in _largest_number(item)]
        return [max(numbers, key=abs)] if numbers else []
    return [float(value)] if isinstance(value, int | float) else []


def _scales(recipe: Recipe) -> list[tuple[str, float]]:
    names = {parameter.name for parameter in recipe.method.parameters} & {"weight", "lambda"}
    if recipe.method.base != "required":
        return []
    return [
        (f"{each.level.where}.{name}", number)
        for each in checked_levels(recipe)
        for name in sorted(names)
        for number in _largest_number(each.level.get(name))
    ]
