"""In what the checkpoints of a recipe may differ, because the recipe says how to deal with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from merge_core.recipes.recipe import Recipe
from merge_core.records import Record
from merge_core.tensors.filters import matches
from merge_core.tensors.names import stack_of


class Tolerance(Record):
    """Differences between checkpoints that a merge copes with. By default none."""

    vocabulary: bool = False
    """The vocabularies are merged."""
    depth: bool = False
    """Layers are stacked, so the models may have different numbers of them."""
    unrelated: bool = False
    """They may come from different training runs: each tensor is taken from one of them alone, or
    the recipe says that it is meant."""
    exclude: tuple[dict[str, Any], ...] = ()
    """Filters of the tensors that are not merged, which models may lack or have otherwise."""

    @classmethod
    def of(cls, recipe: Recipe) -> Tolerance:
        """What a recipe, and the recipes that it uses by name, cope with."""
        everyone = (*recipe.recipes, recipe)
        return cls(
            vocabulary=recipe.vocabulary is not None,
            unrelated=recipe.allows_unrelated or not recipe.mixes_weights,
            depth=any(
                each.slices or any(module.slices for module in each.modules.values())
                for each in everyone
            ),
            # A tensor that only one of several recipes leaves alone is merged by the others.
            exclude=recipe.exclude if len(everyone) == 1 else (),
        )

    def is_excluded(self, tensor: str) -> bool:
        """Whether a tensor is not merged."""
        return any(matches(entry, tensor) for entry in self.exclude)

    def without_surplus_layers(
        self, tensors: Mapping[str, Any], others: Mapping[str, Any]
    ) -> list[str]:
        """The names of `tensors` that `others` have not, but for further layers of a kind."""
        lacking = [name for name in tensors if name not in others]
        if not self.depth:
            return lacking
        kinds = {_kind(name) for name in others}
        return [name for name in lacking if stack_of(name) is None or _kind(name) not in kinds]


STRICT = Tolerance()
"""No difference is dealt with."""


def _kind(tensor: str) -> str:
    """A tensor's name without the number of its layer."""
    stack = stack_of(tensor)
    if stack is None:
        return tensor
    rest = tensor[len(stack[0]) + 1 :].partition(".")[2]
    return f"{stack[0]}.*.{rest}"
