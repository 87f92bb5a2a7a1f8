"""The form of a search in Prefect's UI: models, and weights to try or a whole space."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from flows.settings.form_fields import SUITE_OR_DIRECTORY, Judged, asked_for
from flows.settings.merge_form import FilledIn, pipeline_of, recipe_of
from flows.settings.search import Budget, Search, SearchPipeline
from flows.settings.sentences import expect, in_range, only
from merge_core.errors import RecipeError
from merge_core.files.strict_yaml import load_yaml, validated
from merge_core.homes.home import Home
from merge_core.recipes.loading import parse_recipe
from tasks.search.soup import SOUP

_SAMPLERS = ("grid", "random", "tpe", "cma-es", "nsga-ii", SOUP)
_WHOLE = expect("a whole number from 1 to 10000", {"minimum": 1, "maximum": 10_000})


class SearchedModel(BaseModel):
    """One model of the merges."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="Model")

    model: str = Field(
        title="Model",
        description="A directory, org/name[@revision] on the Hub, or models:/NAME@ALIAS.",
        json_schema_extra=asked_for("", "./runs/code"),
    )


class SearchForm(Judged):
    """Try many merges of the same models on one half of a suite, and let the best one pass the
    promotion rule on the other half."""

    base: str = Field(
        default="",
        title="Base model",
        description="What the models were fine-tuned from; it keeps serving if no merge is better."
        " Empty: the models themselves are averaged.",
    )
    models: tuple[SearchedModel, ...] = Field(
        default=(),
        max_length=32,
        title="Models",
        description="The fine-tunes to merge, one row each; an empty row counts for nothing.",
        json_schema_extra={"default": [{"model": ""}, {"model": ""}]},
    )
    recipe: str = Field(
        default="",
        max_length=100_000,
        title="Or a recipe",
        description="In place of base and models: a recipe's text, or the path of a recipe file.",
    )
    low: float = Field(
        default=0.1,
        title="Weight from",
        description="Weight of every model, the smallest to try.",
        json_schema_extra=in_range(-10, 10),
    )
    high: float = Field(
        default=0.9,
        title="Weight to",
        description="The largest to try.",
        json_schema_extra=in_range(-10, 10),
    )
    step: float = Field(
        default=0.1,
        title="Step",
        description="From one weight to the next. 0: any number between; not for grid.",
        json_schema_extra=in_range(0, 10),
    )
    space: str = Field(
        default="",
        max_length=100_000,
        title="Or a space",
        description="In place of the three numbers: YAML with `space` and `methods`, as in a search"
        " file.",
    )
    sampler: str = Field(
        default="grid",
        title="Sampler",
        description="grid: every weight. tpe: near what was good so far. nsga-ii: several tasks at"
        " once. greedy-soup: the mean of those models that make it better; no weight.",
        json_schema_extra=only(_SAMPLERS),
    )
    trials: int = Field(
        default=30,
        title="Trials",
        description="At most so many merges are tried.",
        json_schema_extra=_WHOLE,
    )
    full: bool = Field(
        default=True,
        title="Every document",
        description="Evaluate each merge on every search document, for a curve. Off: one that has"
        " certainly lost stops early.",
    )
    suite: str = Field(
        default="english-small",
        title="Suite",
        description="What judges the merges: one half of it chooses, the other decides.",
        json_schema_extra=SUITE_OR_DIRECTORY,
    )

    @property
    def judged_by(self) -> str:
        """The suite, by name or directory."""
        return self.suite

    def read(self, home: Home) -> FilledIn:
        """The recipe to begin with.

        Raises:
            RecipeError: it does not mean anything; names the field.
        """
        if self.recipe.strip():
            return recipe_of(self.recipe, home, where="recipe")
        base = self.base.strip()
        is_soup = self.sampler == SOUP
        values: dict[str, Any] = {
            "merge_method": "task_arithmetic" if base and not is_soup else "linear",
            "models": [{"model": row.model.strip()} for row in self.models if row.model.strip()],
            **({} if is_soup else {"parameters": {"weight": self.low}}),
            **({"base_model": base} if base else {}),
        }
        return FilledIn(parse_recipe(values, where="models"), None)

    def pipeline(self, filled: FilledIn) -> SearchPipeline:
        """The search that the form stands for.

        Raises:
            RecipeError: names the field that has to be mended.
        """
        knob = {"from": self.low, "to": self.high} | ({"step": self.step} if self.step else {})
        space: dict[str, Any] = {} if self.sampler == SOUP else {"space": {"weight": knob}}
        if self.space.strip():
            space = load_yaml(self.space, "space")
            if unknown := space.keys() - {"space", "methods"}:
                raise RecipeError(
                    f"'{sorted(unknown)[0]}' is no part of a space; it has `space` and `methods`",
                    where="space",
                )
        how = {"sampler": self.sampler, "full": self.full, "budget": Budget(trials=self.trials)}
        plain = pipeline_of(
            filled, self.name, self.suite, self.promote, self.registered_model, self.device
        )
        search = validated(Search, {**space, **how}, "search")
        fields = {each.alias or name: name for name, each in type(plain).model_fields.items()}
        values = {alias: getattr(plain, name) for alias, name in fields.items()}
        return validated(SearchPipeline, {**values, "search": search}, "form")
