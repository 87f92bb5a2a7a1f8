"""Reads a recipe: YAML or a mapping, of one document or several, to a checked `Recipe`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from merge_core.errors import RecipeError
from merge_core.files.strict_yaml import all_of, examined, load_yaml_documents
from merge_core.recipes.checks import problems_of
from merge_core.recipes.forms import Forms, read_forms
from merge_core.recipes.recipe import Recipe
from merge_core.recipes.several import agreeing, check_name

_MOST_DOCUMENTS = 64


def load_recipe(path: Path) -> Recipe:
    """A recipe from a YAML file; of several documents the last one, with the others in it.

    Raises:
        RecipeError: unreadable, not YAML, or not a meaningful recipe.
    """
    return _from_documents(load_yaml_documents(path), str(path))


def parse_recipe(value: str | Mapping[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from YAML text or from a mapping, checked against its method.

    Raises:
        RecipeError: every problem names its YAML path and what would be right.
    """
    if isinstance(value, str):
        return _from_documents(load_yaml_documents(value, where), where)
    return _from_mapping(value, where)


def _from_documents(documents: Sequence[dict[str, Any]], where: str) -> Recipe:
    if len(documents) == 1:
        return _from_mapping(documents[0], where)
    places = [f"{where}: document {index + 1}" for index in range(len(documents))]
    return _linked(documents, places, where)


def _from_mapping(value: Mapping[str, Any], where: str) -> Recipe:
    earlier = value.get("recipes") or ()
    if not isinstance(earlier, list | tuple) or not all(isinstance(e, Mapping) for e in earlier):
        raise RecipeError("recipes: must be a list of recipes", where=where)
    last = {key: item for key, item in value.items() if key != "recipes"}
    places = [f"{where}: recipes[{index}]" for index in range(len(earlier))]
    return _linked([*earlier, last], [*places, where], where)


def _linked(documents: Sequence[Mapping[str, Any]], places: Sequence[str], where: str) -> Recipe:
    """Check recipes in their order and give each one those before it that it needs."""
    if len(documents) > _MOST_DOCUMENTS:
        raise RecipeError(f"a recipe has at most {_MOST_DOCUMENTS} documents", where=where)
    for document, place in zip(documents, places, strict=True):
        if document.get("recipes"):
            raise RecipeError(
                "recipes: list them in one place, as documents of the file or in the last recipe",
                where=place,
            )
    forms = [read_forms(document, Recipe.model_fields) for document in documents]
    several = len(forms) > 1
    problems: list[list[str]] = []
    recipes: list[Recipe] = []
    for each, place in zip(forms, places, strict=True):
        recipe, found = _as_recipe(each)
        problems += [_placed(said, place) if several else said for said in found]
        if recipe is not None:
            recipes.append(recipe)
    if len(recipes) < len(forms):
        raise all_of(problems, where)
    recipes = [*(agreeing(each, recipes[-1]) for each in recipes[:-1]), recipes[-1]]
    earlier: dict[str, Recipe] = {}
    for index, (recipe, place) in enumerate(zip(recipes, places, strict=True)):
        if several:
            with _at(place):
                check_name(recipe, [each.name for each in recipes], index)
        linked = recipe.model_copy(update={"recipes": _needed(recipe, earlier)})
        found_here = problems_of(linked)
        if not problems and len(found_here) == 1:
            with _at(place):
                raise found_here[0]
        told = map(_in_a_list, found_here)
        problems += [_placed(said, place) if several else said for said in told]
        if index < len(recipes) - 1:
            earlier[str(linked.name)] = linked
    if problems:
        raise all_of(problems, where)
    for name, place in zip(earlier, places, strict=False):
        if linked.recipe_named(name) is None:
            raise RecipeError(
                f"the recipe '{name}' is not used by any later one",
                where=place,
                mend="name it as a model or base_model, or remove it",
            )
    return linked


def _as_recipe(forms: Forms) -> tuple[Recipe | None, list[list[str]]]:
    """A document as a recipe, as far as it is one, and what is wrong with it so far."""
    recipe, problems = examined(Recipe, forms.document)
    if recipe is not None:
        recipe.note_idle(forms.idle)
    return recipe, [*map(_in_a_list, forms.problems), *problems]


def _in_a_list(problem: RecipeError) -> list[str]:
    """A problem as one of several, in lines."""
    head = f"{problem.where}: {problem.what}" if problem.where else problem.what
    return [f"{head}; {problem.mend}" if problem.mend else head, *problem.details]


def _placed(said: list[str], place: str) -> list[str]:
    return [f"{place}: {said[0]}", *said[1:]]


def _needed(recipe: Recipe, earlier: Mapping[str, Recipe]) -> tuple[Recipe, ...]:
    """The earlier recipes that one uses, itself or through others, in their order.

    One that an adapter is to be applied to is used, too: why it cannot be is said of that use.
    """
    named = recipe.direct_references()
    used = {each for name in named for each in (name, name.partition("+")[0]) if each in earlier}
    used |= {str(each.name) for name in used for each in earlier[name].recipes}
    return tuple(each for name, each in earlier.items() if name in used)


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Put a place before that of every error."""
    try:
        yield
    except RecipeError as error:
        place = f"{where}: {error.where}" if error.where else where
        raise RecipeError(error.what, where=place, mend=error.mend, details=error.details) from None
