"""A form for each common merge, with the fields of that merge alone, and one for a recipe's text.

A form is a model: its fields are what the page asks for, and `values` is the recipe that it stands
for. What a method says of its parameters (help, bounds) is taken from the method.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from flows.settings.form_fields import (
    AS_STORED,
    BASE,
    MODEL,
    STORED_TYPE,
    Judged,
    asked_for,
    number,
    parameter_of,
    rows,
)
from flows.settings.merge_form import FilledIn, recipe_of
from flows.settings.sentences import expect, in_range, only
from merge_core.errors import RecipeError
from merge_core.homes.home import Home
from merge_core.methods import METHODS
from merge_core.recipes.loading import parse_recipe
from tasks.evaluation.suite import shipped_suites

_WHERE = (
    "A directory such as ./runs/code, org/name[@revision] on the Hub such as"
    " meta-llama/Llama-3.2-1B, or models:/NAME@ALIAS"
)
_ROWS = "One row each; to drop a row: its three dots, Delete."
_SUITES = " ".join(f"{name}: {purpose}" for name, purpose in shipped_suites().items())


class Form(Judged):
    """A merge, with the suite that judges it."""

    suite: str = Field(
        default="english-small",
        title="Suite",
        description=f"What judges the result. {_SUITES}",
        json_schema_extra=only(tuple(shipped_suites())),
    )
    own_suite: str = Field(
        default="",
        title="Or a suite of your own",
        description="In place of the suite above: the directory that holds your suite.yaml, for"
        " example ./my-suite.",
        json_schema_extra={"examples": ["./my-suite"]},
    )

    @property
    def judged_by(self) -> str:
        """The suite, by name or directory."""
        return self.own_suite.strip() or self.suite

    def read(self, home: Home) -> FilledIn:
        """The recipe that the filled form stands for.

        Raises:
            RecipeError: it does not mean anything; says what.
        """
        return FilledIn(parse_recipe(self.values(), where="form"), None)

    def values(self) -> dict[str, Any]:
        """The recipe, as a file would have it."""
        raise NotImplementedError


class _Stored(Form):
    """A merge whose weights may be stored as another type."""

    dtype: str = Field(
        default=AS_STORED,
        title="Stored type",
        description="Type of the merged weights; arithmetic is always float64.",
        json_schema_extra=STORED_TYPE,
    )

    def stored(self, values: dict[str, Any]) -> dict[str, Any]:
        """A recipe with the type in it."""
        return values if self.dtype == AS_STORED else {**values, "out_dtype": self.dtype}


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", title="Model")

    model: str = Field(
        title="Model",
        description="A directory such as ./runs/code, org/name on the Hub, or models:/NAME@ALIAS."
        " With +ADAPTER for a LoRA.",
        json_schema_extra=MODEL | {"position": 0},
    )


def _weight(method: str, starts_as: float, more: str) -> Any:
    field = number(parameter_of(METHODS[method], "weight"), "Weight", starts_as, more)
    field.json_schema_extra["position"] = 1
    return field


class AveragedModel(_Row):
    """One model of an average."""

    weight: float = _weight("linear", 1.0, "The same for all: a plain mean.")


class WeighedModel(_Row):
    """One fine-tune, and how strongly it counts."""

    weight: float = _weight("task_arithmetic", 0.5, "A negative weight takes away.")


def _row_values(row: AveragedModel | WeighedModel) -> dict[str, Any]:
    return {"model": row.model.strip(), "parameters": {"weight": row.weight}}


class Average(_Stored):
    """Average models: a weighted mean of their weights. The first one keeps serving if the average
    is not better."""

    models: tuple[AveragedModel, ...] = Field(
        title="Models",
        description="Fine-tunes of one base, or checkpoints of one training. The result is compared"
        f" with the first. {_ROWS}",
        json_schema_extra=rows(2, {"model": "", "weight": 1.0}),
    )

    def values(self) -> dict[str, Any]:
        """A recipe of `linear`."""
        models = [_row_values(row) for row in self.models]
        return self.stored({"merge_method": "linear", "models": models})


class _TaskVectors(_Stored):
    """What the methods that add task vectors to a base have in common."""

    base: str = Field(
        title="Base model",
        description=f"What the models were fine-tuned from; it keeps serving if the merge is not"
        f" better. {_WHERE}.",
        json_schema_extra=BASE,
    )
    models: tuple[WeighedModel, ...] = Field(
        title="Models",
        description="Fine-tunes of the base. What one has changed in the base is its task vector."
        f" {_ROWS}",
        json_schema_extra=rows(1, {"model": "", "weight": 0.5}),
    )

    def recipe_with(self, method: str, parameters: dict[str, float]) -> dict[str, Any]:
        """The recipe of a method, with what is set once for the whole merge."""
        values = {
            "merge_method": method,
            "base_model": self.base.strip(),
            "models": [_row_values(row) for row in self.models],
            "parameters": parameters,
        }
        return self.stored(values)


def _scale(method: str) -> Any:
    scale = parameter_of(METHODS[method], "lambda")
    return Field(
        default=scale.default,
        title="Lambda",
        description=f"{scale.help[0].upper()}{scale.help[1:]}; above 1 rarely helps.",
        json_schema_extra={"examples": [0.8, 1]},
    )


class TaskArithmetic(_TaskVectors):
    """Task arithmetic: add what each fine-tune has learned to their base, scaled by its weight."""

    scale: float = _scale("task_arithmetic")

    def values(self) -> dict[str, Any]:
        """A recipe of `task_arithmetic`."""
        return self.recipe_with("task_arithmetic", {"lambda": self.scale})


class Ties(_TaskVectors):
    """TIES: keep the largest changes of each fine-tune, let the models vote on the sign of each
    entry, and add up those that agree."""

    density: float = number(
        parameter_of(METHODS["ties"], "density"), "Density", 0.3, "The paper keeps 0.2."
    )
    scale: float = _scale("ties")

    def values(self) -> dict[str, Any]:
        """A recipe of `ties`."""
        return self.recipe_with("ties", {"density": self.density, "lambda": self.scale})


class Dare(_TaskVectors):
    """DARE: drop changes of each fine-tune at random, enlarge what is left, and add it to the
    base."""

    density: float = number(
        parameter_of(METHODS["dare_linear"], "density"),
        "Density",
        0.5,
        "The rest is dropped at random, the same in every run.",
    )
    elect_signs: bool = Field(
        default=True,
        title="Elect signs",
        description="Let the models vote on the sign of each entry, as TIES does, and add up those"
        " that agree. Otherwise all are added up.",
    )
    scale: float = _scale("dare_linear")

    def values(self) -> dict[str, Any]:
        """A recipe of `dare_ties` or `dare_linear`."""
        method = "dare_ties" if self.elect_signs else "dare_linear"
        return self.recipe_with(method, {"density": self.density, "lambda": self.scale})


class Slerp(_Stored):
    """SLERP: a point on the arc between two models. The first one keeps serving if the merge is
    not better."""

    base: str = Field(
        title="First model",
        description=f"The result at t = 0, with which the merge is compared. {_WHERE}.",
        json_schema_extra=BASE,
    )
    model: str = Field(
        title="Second model",
        description="The result at t = 1, written in the same way.",
        json_schema_extra=MODEL,
    )
    t: float = number(
        parameter_of(METHODS["slerp"], "t"), "Position t", 0.5, "0.5 is half-way between both."
    )

    def values(self) -> dict[str, Any]:
        """A recipe of `slerp`."""
        values = {
            "merge_method": "slerp",
            "base_model": self.base.strip(),
            "models": [{"model": self.model.strip()}],
            "parameters": {"t": self.t},
        }
        return self.stored(values)


class LayerRun(_Row):
    """A run of layers of one model."""

    first: int = Field(
        title="First layer",
        description="Counted from 0.",
        json_schema_extra=asked_for(0, 0) | in_range(0, float("inf")) | {"position": 1},
    )
    last: int = Field(
        title="Last layer",
        description="It is taken too. For example 11: from layer 0, these are twelve.",
        json_schema_extra=asked_for(11, 11) | in_range(0, float("inf")) | {"position": 2},
    )


class StackLayers(_Stored):
    """Stack runs of layers of one or several models into a deeper or a shorter one (a
    "frankenmerge"). The model of the first run keeps serving if the stack is not better."""

    runs: tuple[LayerRun, ...] = Field(
        title="Runs of layers",
        description="From the bottom of the stack to its top. Embeddings come from the first run,"
        f" and the head from the last. {_ROWS}",
        json_schema_extra={
            "default": [{"model": "", "first": 0, "last": 11}] * 2,
            **expect("at least one run of layers", {"minItems": 1}),
        },
    )

    def values(self) -> dict[str, Any]:
        """A recipe of `passthrough` with a slice for each run."""
        for place, run in enumerate(self.runs):
            if run.last < run.first:
                raise RecipeError(
                    f"the last layer, {run.last}, comes before the first, {run.first}",
                    where=f"runs[{place}]",
                    mend="count from 0, and name the last layer that is taken",
                )
        slices = [
            {"sources": [{"model": run.model.strip(), "layer_range": [run.first, run.last + 1]}]}
            for run in self.runs
        ]
        return self.stored({"merge_method": "passthrough", "slices": slices})


class RecipeText(Form):
    """A recipe: paste its text, or name its file. For every method and all that a recipe can say,
    in mergekit's notation."""

    recipe: str = Field(
        title="Recipe",
        description="The text of a recipe (YAML), or the path of a recipe file, for example"
        " ./recipe.yaml. Other paths in a file start from its directory.",
        json_schema_extra=asked_for("", "./recipe.yaml")
        | expect(
            "the text of a recipe, or the path of a file such as ./recipe.yaml",
            {"pattern": r"\S", "maxLength": 100_000},
        ),
    )

    def read(self, home: Home) -> FilledIn:
        """The recipe, from the text or its file.

        Raises:
            RecipeError: no recipe, or no such file.
        """
        return recipe_of(self.recipe, home, where="recipe")


FORMS: dict[str, type[Form]] = {
    "average": Average,
    "task-arithmetic": TaskArithmetic,
    "ties": Ties,
    "dare": Dare,
    "slerp": Slerp,
    "stack-layers": StackLayers,
    "recipe": RecipeText,
}
"""Every form, by the name of its deployment."""
