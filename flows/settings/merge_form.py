"""The form of a merge in Prefect's UI: what it asks for, its rules, and the recipe it stands for.

Prefect's server checks a form by its JSON schema alone and before a run exists, so whatever can be
said there is: bounds, and which method takes which parameter, both taken from the methods
themselves. What a schema cannot know (does this directory exist?) is told when the run starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from flows.settings.form_fields import (
    AS_STORED,
    MODEL,
    REFERENCE_GIVEN,
    STORED_TYPE,
    SUITE_OR_DIRECTORY,
    Judged,
)
from flows.settings.pipeline import Evaluate, Execution, Pipeline, Register
from flows.settings.sentences import expect, in_range, only
from merge_core.errors import RecipeError
from merge_core.files.strict_yaml import validated
from merge_core.homes.home import Home
from merge_core.homes.variables import place_of
from merge_core.methods import METHODS
from merge_core.recipes.loading import load_recipe, parse_recipe
from merge_core.recipes.recipe import Recipe
from tasks.promotion.rule import PromotionRule

METHOD_NAMES = tuple(name for name, method in METHODS.items() if method.calibration is None)
"""Methods that the form offers: all but those that measure the models on data."""

_FIRST_METHOD = "task_arithmetic"


def _number(
    low: float, high: float, title: str, description: str, position: int, alias: str | None = None
) -> Any:
    def shape(schema: dict[str, Any]) -> None:
        # An empty number is left out, not sent as null: the UI would draw null as a second tab.
        del schema["default"], schema["anyOf"]
        schema.update(type="number", position=position, **in_range(low, high, description))

    return Field(
        default=None,
        alias=alias,
        ge=low,
        le=high,
        title=title,
        description=description,
        json_schema_extra=shape,
    )


class ModelRow(BaseModel):
    """One model of the merge."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="Model")

    model: str = Field(
        title="Model",
        description="A directory, org/name[@revision] on the Hub, or models:/NAME@ALIAS. With"
        " +ADAPTER for a LoRA.",
        json_schema_extra=MODEL | {"position": 0},
    )
    weight: float | None = _number(
        -10, 10, "Weight", "Its share. Leave empty for methods that weigh by themselves.", 1
    )


def _with_rules(schema: dict[str, Any]) -> None:
    schema["if"] = {"properties": {"recipe": {"minLength": 1}}, "required": ["recipe"]}
    schema["then"] = {"properties": _nothing_beside_a_recipe()}
    schema["else"] = {"required": ["models"], "allOf": _rules_of_methods()}


class MergeForm(BaseModel):
    """The merge: a method with its models, or a recipe."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        title="Merge",
        populate_by_name=True,
        json_schema_extra=_with_rules,
    )

    method: str = Field(
        default=_FIRST_METHOD,
        title="Method",
        description="What each does, and which parameters it takes: mergeflow methods NAME.",
        json_schema_extra={**only(METHOD_NAMES), "position": 0},
    )
    base: str = Field(
        default="",
        title="Base model",
        description="What the models were fine-tuned from; it keeps serving if the merge is not"
        " better. A directory, org/name on the Hub, or models:/NAME@ALIAS.",
        json_schema_extra={"position": 1},
    )
    models: tuple[ModelRow, ...] = Field(
        default=(),
        max_length=32,
        title="Models",
        description="The fine-tunes to merge, one row each.",
        json_schema_extra={"position": 2},
    )
    density: float | None = _number(
        0, 1, "Density", "Share of each task vector that is kept (ties, dare, della, ...).", 3
    )
    scale: float | None = _number(
        -10, 10, "Lambda", "Scale of the merged task vector; above 1 rarely helps.", 4, "lambda"
    )
    t: float | None = _number(
        0, 1, "t", "slerp: position between base (0) and model (1). nearswap: a distance.", 5
    )
    epsilon: float | None = _number(
        0,
        1,
        "Epsilon",
        "della: spread of the keep probabilities. ram: what counts.",
        6,
    )
    gamma: float | None = _number(
        0, 1, "Gamma", "breadcrumbs: share of the largest entries that is dropped.", 7
    )
    select_topk: float | None = _number(
        0, 1, "Select top k", "sce: share of the varying entries that is kept.", 8
    )
    dtype: str = Field(
        default=AS_STORED,
        title="Stored type",
        description="Type of the merged weights; arithmetic is always float64.",
        json_schema_extra=STORED_TYPE | {"position": 9},
    )
    recipe: str = Field(
        default="",
        max_length=100_000,
        title="Or a recipe",
        description="In place of all above: a recipe's text, or the path of a recipe file. For"
        " slices, filters, calibration and whatever else this form does not have.",
        json_schema_extra={"position": 10},
    )

    def read(self, home: Home) -> FilledIn:
        """The recipe that the form stands for.

        Raises:
            RecipeError: it does not mean anything; names the field.
        """
        if self.recipe.strip():
            return recipe_of(self.recipe, home, where="merge.recipe")
        settings = {name: getattr(self, field) for name, field in _SETTINGS.items()}
        values: dict[str, Any] = {
            "merge_method": self.method,
            "models": [
                {"model": row.model.strip()}
                | ({} if row.weight is None else {"parameters": {"weight": row.weight}})
                for row in self.models
            ],
            "parameters": {name: value for name, value in settings.items() if value is not None},
        }
        if self.base.strip():
            values["base_model"] = self.base.strip()
        if self.dtype != AS_STORED:
            values["out_dtype"] = self.dtype
        return FilledIn(parse_recipe(values, where="merge"), None)


_SETTINGS = {
    field.alias or name: name
    for name, field in MergeForm.model_fields.items()
    if name not in ("method", "base", "models", "dtype", "recipe")
}
"""Recipe parameters that the form has, with their fields."""


@dataclass(frozen=True)
class FilledIn:
    """What a filled form says: the recipe, and where its relative paths start."""

    recipe: Recipe
    beside: Path | None


class AnyMethod(Judged):
    """Every method in one form, and the same as a recipe: what programs call."""

    merge: MergeForm = Field(title="Merge", description="Which models, merged how.")
    suite: str = Field(
        default="english-small",
        title="Suite",
        description="What judges the result. A suite directory or the name of a shipped suite.",
        json_schema_extra=SUITE_OR_DIRECTORY,
    )

    @property
    def judged_by(self) -> str:
        """The suite, by name or directory."""
        return self.suite

    def read(self, home: Home) -> FilledIn:
        """The recipe that the form stands for.

        Raises:
            RecipeError: it does not mean anything; names the field.
        """
        return self.merge.read(home)


def pipeline_of(
    filled: FilledIn, name: str, suite: str, promote: BaseModel, registered_model: str, device: str
) -> Pipeline:
    """The pipeline that a filled form stands for.

    Raises:
        RecipeError: names the field that has to be mended.
    """
    values = {
        "name": name,
        "recipe": filled.recipe,
        "evaluate": validated(Evaluate, {"suite": suite, "device": device}, "form"),
        "promote": validated(PromotionRule, promote.model_dump(), "promote"),
        "register": validated(Register, {"model": registered_model or None}, "registered_model"),
        "execution": validated(Execution, {"device": device}, "device"),
    }
    return validated(Pipeline, values, "form")


def recipe_of(text: str, home: Home, where: str) -> FilledIn:
    """The recipe that a field holds: its text, or the path of its file.

    Args:
        where: the field.

    Raises:
        RecipeError: no recipe, or no such file.
    """
    if "\n" in text.strip() or ": " in text:
        return FilledIn(parse_recipe(text, where=where), None)
    path = place_of(text.strip(), home).absolute()
    if not path.is_file():
        raise RecipeError(
            f"there is no file {path}",
            where=where,
            mend="give a recipe's YAML, or the path of a recipe file on the worker's machine",
        )
    return FilledIn(load_recipe(path), path.parent)


def _empty(why: str) -> dict[str, Any]:
    """A schema that takes nothing, and whose error says why: "'...' was expected"."""
    return {"if": {"not": {"enum": [None, ""]}}, "then": {"const": why}}


def _nothing_beside_a_recipe() -> dict[str, Any]:
    why = _empty("nothing here, as there is a recipe below")
    no_models = expect("no models here, as there is a recipe below", {"maxItems": 0})
    return {"models": no_models, "base": why, **dict.fromkeys(_SETTINGS, why)}


def _rules_of_methods() -> list[dict[str, Any]]:
    """What each method needs and does not take, grouped by what they have in common."""
    methods = {name: METHODS[name] for name in METHOD_NAMES}
    taken = {name: {p.name for p in method.parameters} for name, method in methods.items()}
    required = {
        name: {p.name for p in method.parameters if p.default is None}
        for name, method in methods.items()
    }
    rules = [
        _for(
            [name for name, method in methods.items() if method.base == "required"],
            {"required": ["base"], "properties": {"base": REFERENCE_GIVEN}},
        )
    ]
    for count in sorted({method.fewest_models for method in methods.values()}):
        names = [name for name, method in methods.items() if method.fewest_models == count]
        enough = expect(f"at least {_counted(count)}, one row each", {"minItems": count})
        rules.append(_for(names, {"properties": {"models": enough}}))
    for most in sorted({m.most_models for m in methods.values() if m.most_models}):
        names = [name for name, method in methods.items() if method.most_models == most]
        few = expect(f"not more than {_counted(most)} for this method", {"maxItems": most})
        rules.append(_for(names, {"properties": {"models": few}}))
    for parameter in (*_SETTINGS, "weight"):
        with_it = [name for name in methods if parameter in taken[name]]
        needed = [name for name in methods if parameter in required[name]]
        without = [name for name in methods if name not in with_it]
        nothing = _empty(f"nothing here: only {_some(with_it)} take it")
        empty: dict[str, Any] = {"properties": {parameter: nothing}}
        there: dict[str, Any] = {"required": [parameter]}
        if parameter == "weight":
            empty, there = ({"properties": {"models": {"items": rule}}} for rule in (empty, there))
        rules += [_for(without, empty), _for(needed, there)]
    return [rule for rule in rules if rule]


def _for(methods: list[str], rule: dict[str, Any]) -> dict[str, Any]:
    if not methods:
        return {}
    chosen: dict[str, Any] = {"properties": {"method": {"enum": methods}}}
    if _FIRST_METHOD not in methods:  # what a form without a method means
        chosen["required"] = ["method"]
    return {"if": chosen, "then": rule}


def _counted(models: int) -> str:
    return "one model" if models == 1 else f"{models} models"


def _some(names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
