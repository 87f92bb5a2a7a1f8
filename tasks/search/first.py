"""The candidates that every search begins with: the mean of equal weights, and other scales of it.

At the size of language models a tuned sum of task vectors is hard to beat, so whatever a search
finds has to beat these. A candidate that the space holds is one of its trials; another one is
evaluated beside it, and the sampler learns nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from merge_core.errors import RecipeError
from merge_core.recipes.loading import parse_recipe
from merge_core.recipes.recipe import Recipe
from tasks.search.space import METHOD, Space, Value, is_of_all_weights

MEAN = "mean of equal weights"
_SCALES = (0.5, 1.5, 2.0)
"""Sums of the weights beside that of the mean, which is 1."""
_KEPT = (
    *("base_model", "dtype", "out_dtype", "tokenizer_source", "tokenizer", "chat_template"),
    *("allow_unrelated", "recipes", "exclude"),
)


@dataclass(frozen=True)
class Start:
    """A candidate to begin with: values of the space, or a recipe beside it by its label."""

    label: str = ""
    values: dict[str, Value] = field(default_factory=dict)


def first_recipes(template: Recipe) -> dict[str, Recipe]:
    """The recipes by their labels; none for recipes that stack layers or treat modules apart."""
    experts = [entry.model for entry in template.models if entry.model != template.base_model]
    if not experts or template.slices or template.modules:
        return {}
    document = template.model_dump(mode="json", exclude_defaults=True)
    kept = {key: document[key] for key in _KEPT if document.get(key)}
    method = "task_arithmetic" if template.base_model else "linear"
    totals = {MEAN: 1.0}
    if template.base_model:
        totals |= {f"sum of weights {total:g}": total for total in _SCALES}
    found = {}
    for label, total in totals.items():
        parameters = {"weight": float(f"{total / len(experts):.12g}")}
        models = [{"model": name, "parameters": parameters} for name in experts]
        candidate: dict[str, Any] = {**kept, "merge_method": method, "models": models}
        try:
            found[label] = parse_recipe(candidate)
        except RecipeError:  # these models cannot be added so, adapters or other shapes say
            continue
    return found


def starts(space: Space, template: Recipe) -> list[Start]:
    """The candidates to begin with, in their order."""
    found = []
    for label, recipe in first_recipes(template).items():
        values = _in_space(space, template, recipe)
        found.append(Start(label, values or {}))
    return found


def _in_space(space: Space, template: Recipe, recipe: Recipe) -> dict[str, Value] | None:
    weight = recipe.models[0].parameters["weight"]
    for method, knobs in space.branches:
        if method not in (None, recipe.merge_method) or not knobs:
            continue
        of_weights = all(
            is_of_all_weights(name, recipe) or name.endswith(".weight") for name in knobs
        )
        if not of_weights or not all(knob.has(weight) for knob in knobs.values()):
            continue
        values = {**({METHOD: method} if method else {}), **dict.fromkeys(knobs, weight)}
        if _meaning(space.recipe(template, values)) == _meaning(recipe):
            return values
    return None


def _meaning(recipe: Recipe) -> Any:
    """A recipe with the parameters of all models written at each."""
    document = recipe.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
    shared = document.pop("parameters", {})
    for entry in document["models"]:
        entry["parameters"] = {**shared, **entry.get("parameters", {})}
    document["models"] = [e for e in document["models"] if e["model"] != recipe.base_model]
    return document
