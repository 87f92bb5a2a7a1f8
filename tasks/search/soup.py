"""A greedy soup as a search: each model alone, then the best one with others added, one at a time.

What comes next follows from the trials that are finished, so a search that was killed goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from merge_core.errors import RecipeError
from merge_core.recipes.loading import parse_recipe
from merge_core.recipes.recipe import Recipe
from tasks.reports.names import distinct_names
from tasks.search.first import Start
from tasks.search.greedy_soup import Soup, greedy_soup, ranking
from tasks.search.trial import Trial

SOUP = "greedy-soup"
"""Its name among the samplers."""
METHOD = "linear"
_OF_ALL = ("parameters", "slices", "modules", "recipes", "calibration", "post")

Members = tuple[int, ...]
"""Models by their number. The last one of the recipe is number 0: an average lists its newest
checkpoint first."""


@dataclass(frozen=True)
class _Walk:
    """The soup as far as it is known."""

    soup: Soup
    members: dict[str, Members]
    """By label, of every candidate up to the first that is not known."""
    unknown: str | None
    """The candidate that has to be evaluated next."""


class GreedySoup:
    """The candidates of one soup, each by its label."""

    def __init__(self, template: Recipe) -> None:
        self._template = template
        self._models = [entry.model for entry in template.models][::-1]
        names = distinct_names(self._models)
        self._alone = [f"{name} alone" for name in names]
        self._names = names

    @property
    def most(self) -> int:
        """How many candidates there are in all."""
        return 2 * len(self._models) - 1

    @property
    def alone(self) -> list[Start]:
        """Each model for itself: the candidates that everything else follows from."""
        return [Start(label) for label in self._alone]

    def following(self, trials: Sequence[Trial]) -> Start | None:
        """The next candidate; None when every model was tried, or none can be evaluated."""
        walk = self._walk(trials)
        is_lost = walk.soup.score == -math.inf
        return None if is_lost or walk.unknown is None else Start(walk.unknown)

    def soup(self, trials: Sequence[Trial]) -> Soup:
        """What is in the soup after these trials, and what was tried."""
        return self._walk(trials).soup

    def models(self, soup: Soup) -> list[str]:
        """The references of a soup's ingredients, the first of the recipe last."""
        return [self._models[number] for number in soup.ingredients]

    def named(self, soup: Soup) -> str:
        """The ingredients in words."""
        return " + ".join(self._names[number] for number in soup.ingredients)

    def recipe(self, label: str, trials: Sequence[Trial]) -> Recipe:
        """The plain mean that a label stands for, when these trials are finished."""
        members = self._walk(trials).members[label]
        document: dict[str, Any] = self._template.model_dump(
            mode="json", exclude={"name", "parameters"}, exclude_defaults=True
        )
        weight = 1.0 / len(members)
        models = [self._models[number] for number in reversed(members)]
        document["models"] = [{"model": each, "parameters": {"weight": weight}} for each in models]
        return parse_recipe(document, where="soup")

    def _walk(self, trials: Sequence[Trial]) -> _Walk:
        known = {
            trial.label: -math.inf if trial.result.objective is None else trial.result.objective
            for trial in trials
        }
        members: dict[str, Members] = {label: (number,) for number, label in enumerate(self._alone)}
        unknown = [label for label in self._alone if label not in known]
        singles = [known.get(label, -math.inf) for label in self._alone]
        candidates = iter(ranking(singles)[1:])

        def score(tried: Members) -> float:
            label = f"soup of {len(tried)} with {self._names[next(candidates)]}"
            if not unknown:
                members[label] = tried
            if unknown or label not in known:
                unknown.append(label)
                return -math.inf
            return known[label]

        soup = greedy_soup(singles, score)
        tries = sum(label in known for label in members) - len(singles)
        tried = soup.model_copy(update={"trials": soup.trials[: max(0, tries)]})
        return _Walk(tried, members, unknown[0] if unknown else None)


def check_soup(template: Recipe) -> None:
    """See that a recipe says what a soup needs, and nothing that a plain mean has not.

    Raises:
        RecipeError: names the key.
    """
    if template.merge_method != METHOD:
        raise RecipeError(
            f"a greedy soup is a plain mean, and this recipe asks for {template.merge_method}",
            where="recipe.merge_method",
            mend=f"write {METHOD}, or take another sampler",
        )
    if template.base_model is None:
        raise RecipeError(
            "a greedy soup is compared with the base, and falls back to it; there is none here",
            where="recipe.base_model",
            mend="name the checkpoint that the models were fine-tuned from",
        )
    written = template.model_dump(mode="json", exclude_defaults=True)
    for key in _OF_ALL:
        if written.get(key):
            raise RecipeError(
                "a greedy soup weighs whole models, all alike",
                where=f"recipe.{key}",
                mend="take this out, or take another sampler",
            )
    for number, entry in enumerate(template.models):
        if entry.parameters or entry.model == template.base_model:
            raise RecipeError(
                "a greedy soup chooses among models, and weighs all alike",
                where=f"recipe.models[{number}]",
                mend="list the fine-tunes alone, without `parameters`",
            )
    if len(template.models) < 2:
        raise RecipeError(
            "a greedy soup chooses among at least two models",
            where="recipe.models",
            mend="list another fine-tune of this base",
        )
