"""A recipe as a file in another directory has to write it: paths of checkpoints and data whole."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from merge_core.homes.home import Home
from merge_core.recipes.loading import parse_recipe
from merge_core.recipes.recipe import Recipe
from tasks.calibration.samples import data_file
from tasks.sources.references import AdaptedReference, LocalReference, parse_reference

_NAME_CHECKPOINTS = ("base_model", "model", "tokenizer_source", "source", "chat_template")
"""Keys whose value is, or may be, a reference."""


def recipe_elsewhere(recipe: Recipe, beside: Path | None, home: Home) -> Recipe:
    """The same recipe, for any directory."""
    document = recipe.model_dump(mode="json", exclude_defaults=True)
    written = _elsewhere(document, frozenset(recipe.references()), beside, home)
    if recipe.calibration and not recipe.calibration.data.startswith("$"):
        data = data_file(recipe.calibration, beside)
        written["calibration"]["data"] = str(data.absolute())
    return parse_recipe(written)


def written_elsewhere(reference: str, beside: Path | None, home: Home) -> str:
    """A reference as a recipe in another directory has to write it."""
    meant = parse_reference(reference, beside, home)
    if isinstance(meant, AdaptedReference):
        halves = (meant.base_text, meant.adapter_text)
        return "+".join(written_elsewhere(half, beside, home) for half in halves)
    if isinstance(meant, LocalReference) and not reference.startswith("$"):
        return str(meant.directory.absolute())
    return reference


def _elsewhere(value: Any, known: Collection[str], beside: Path | None, home: Home) -> Any:
    if isinstance(value, list):
        return [_elsewhere(item, known, beside, home) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: written_elsewhere(item, beside, home)
        if key in _NAME_CHECKPOINTS and isinstance(item, str) and item in known
        else _elsewhere(item, known, beside, home)
        for key, item in value.items()
    }
