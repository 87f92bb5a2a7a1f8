"""Sees, before any work, that a recipe takes what a space may choose."""

from __future__ import annotations

from collections.abc import Sequence

from merge_core.errors import RecipeError
from merge_core.methods.parameter import Parameter
from merge_core.recipes.recipe import Recipe
from tasks.search.space import (
    METHOD,
    Knobs,
    Space,
    Value,
    Values,
    is_word,
    parameter_of,
    steps_of,
)

_NAME_ANOTHER = "name a parameter that the method takes (`mergeflow methods` lists them)"


def check_space(space: Space, template: Recipe) -> None:
    """See that the recipe takes the first and the last value of each knob.

    Raises:
        RecipeError: it does not, a knob changes nothing, or two turn the same.
    """
    idle: dict[str, str] = {}
    used: set[str] = set()
    for method, knobs in space.branches:
        _refuse_two_of_a_place(knobs, method, template)
        values = _of_the_method(space, template, method, knobs)
        for name, knob in knobs.items():
            said = _idle_word(space, template, values, name, knob.ends)
            said = said or _covered_word(template, method, knobs, name)
            if said:
                idle[name] = said
            else:
                used.add(name)
            values[name] = knob.ends[0]
    for name in idle.keys() - used:
        raise RecipeError(
            f"every value of it gives the same merge: {idle[name]}",
            where=f"search.space.{name}",
            mend=_NAME_ANOTHER,
        )


def _of_the_method(
    space: Space, template: Recipe, method: str | None, knobs: Knobs
) -> dict[str, Value]:
    """The method; with the first values of its own parameters where it cannot do without."""
    values: dict[str, Value] = {METHOD: method} if method else {}
    try:
        space.recipe(template, values)
    except RecipeError:
        own = {name: knob.ends[0] for name, knob in knobs.items() if name.startswith(f"{method}.")}
        values |= own
        try:
            space.recipe(template, values)
        except RecipeError as error:
            raise RecipeError(
                f"{method}: {error.what}",
                where="search.methods",
                mend=error.mend,
                details=error.details,
            ) from None
    return values


def _refuse_two_of_a_place(knobs: Knobs, method: str | None, template: Recipe) -> None:
    places: list[tuple[str, list[int | str]]] = []
    for name in knobs:
        place = _place(name, method or template.merge_method)
        for other, its in places:
            shorter = min(len(place), len(its))
            if place[:shorter] == its[:shorter] and not _is_own(name, method):
                raise RecipeError(
                    f"{other} turns this, too",
                    where=f"search.space.{name}",
                    mend="keep one of the two",
                )
        places.append((name, place))


def _is_own(name: str, method: str | None) -> bool:
    """Whether it is a method's own, which takes the place of one for all methods."""
    return method is not None and name.startswith(f"{method}.")


def _place(name: str, method: str) -> list[int | str]:
    """Where a knob turns, however it is spelled."""
    bare = name.removeprefix(f"{method}.")
    if is_word(bare):
        return [parameter_of(bare, method)]
    return [step for step in steps_of(bare) if step != "parameters"]


def _idle_word(
    space: Space, template: Recipe, values: Values, name: str, ends: Sequence[Value]
) -> str | None:
    """Why a knob changes nothing; None if it does.

    Raises:
        RecipeError: the recipe does not take one of these values.
    """
    recipes = []
    for value in ends:
        try:
            recipes.append(space.recipe(template, {**values, name: value}))
        except RecipeError as error:
            raise RecipeError(
                f"with {value}: {error.what}",
                where=f"search.space.{name}",
                mend=error.mend,
                details=error.details,
            ) from None
    if len(ends) > 1 and len({recipe.digest for recipe in recipes}) == 1:
        return " ".join(recipes[0].idle_settings()) or "another setting of the recipe counts"
    word = parameter_of(name.rpartition(".")[2], recipes[0].merge_method)
    known = {parameter.name: parameter for parameter in recipes[0].method.parameters}
    return f"{word} is {known[word].help}" if _is_idle(known.get(word)) else None


def _covered_word(template: Recipe, method: str | None, knobs: Knobs, name: str) -> str | None:
    """Why a parameter for every model changes nothing: every model has a knob of its own."""
    places = {each: _place(each, method or template.merge_method) for each in knobs}
    models = range(len(template.models))
    closer = [
        [each for each in knobs if places[each] == ["models", k, *places[name]]] for k in models
    ]
    if len(places[name]) > 1 or not closer or not all(closer):
        return None
    return f"{' and '.join(each for own in closer for each in own)} take its place"


def _is_idle(parameter: Parameter | None) -> bool:
    return parameter is not None and parameter.help.endswith("no effect")
