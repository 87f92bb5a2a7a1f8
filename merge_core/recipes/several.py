"""Several recipes in one file: the names by which later ones use earlier ones.

The last one decides on vocabulary and chat template for all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from merge_core.errors import RecipeError
from merge_core.recipes.tokenizer import UNION

if TYPE_CHECKING:
    from merge_core.recipes.recipe import Recipe

_NAME = re.compile(r"[\w.-]+")


def check_name(recipe: Recipe, names: Sequence[str | None], index: int) -> None:
    """Refuse a name that later recipes could not use, and the use of a name before it is there.

    Args:
        names: of all recipes of the file, in their order; the recipe's own is at `index`.

    Raises:
        RecipeError: no name, one that is given twice, a reference to itself or to a later recipe.
    """
    is_last = index == len(names) - 1
    if recipe.name is None and not is_last:
        raise RecipeError(
            "every recipe but the last needs a name, by which later ones use it", where="name"
        )
    if recipe.name is not None and not _NAME.fullmatch(recipe.name) and not is_last:
        raise RecipeError(
            f"'{recipe.name}' cannot be used as a reference; use letters, digits, dot, dash and"
            " underscore",
            where="name",
        )
    if recipe.name is not None and names.count(recipe.name) > 1:
        raise RecipeError(f"the name '{recipe.name}' is given twice", where="name")
    for reference in recipe.direct_references():
        if reference in names[index:]:
            whose = "itself" if reference == recipe.name else f"'{reference}', which comes later"
            raise RecipeError(
                f"this recipe uses {whose}",
                where=place_of(recipe, reference),
                mend="a recipe can use those before it; a directory of that name is ./NAME",
            )


def agreeing(earlier: Recipe, last: Recipe) -> Recipe:
    """An earlier recipe without what only the last may say, where both say the same of it."""
    update: dict[str, None] = {}
    merges_tokens = earlier.tokenizer is not None or earlier.tokenizer_source == UNION
    if merges_tokens and earlier.vocabulary == last.vocabulary:
        update |= {"tokenizer": None, "tokenizer_source": None}
    if earlier.chat_template is not None and earlier.chat_template == last.chat_template:
        update["chat_template"] = None
    return earlier.model_copy(update=update)


def place_of(recipe: Recipe, reference: str) -> str:
    """YAML path of the first mention of a reference."""
    if reference == recipe.base_model:
        return "base_model"
    for part in recipe.parts:
        if reference == part.base:
            return f"{part.where.rpartition('.')[0]}.base_model"
        for member in part.members:
            if reference == member.model:
                return f"{member.own.where.rpartition('.')[0]}.model"
    return "models"
