"""What a search may change in a recipe, and the recipe that a choice of values stands for.

A knob is named by what it turns. One word is a parameter of the whole recipe, for every model:
`weight`, `density`, `t`; `alpha` stands for `weight` where the method has no `alpha`. A path is one
place: `models[0].weight`, `parameters.t[1]`, `models[1].parameters.weight[0].value`.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from merge_core.errors import RecipeError, did_you_mean
from merge_core.methods import METHODS, find_method, method_named
from merge_core.recipes.loading import parse_recipe
from merge_core.recipes.recipe import Recipe
from tasks.search.steps import Steps

Value = bool | int | float | str
Values = Mapping[str, Value]
"""By the name of the knob; the method by `METHOD`."""

METHOD = "method"
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PATH = re.compile(r"[A-Za-z_][\w-]*(\[\d{1,4}\])*(\.[A-Za-z_][\w-]*(\[\d{1,4}\])*)*\Z")
_STEP = re.compile(r"\[(\d+)\]|([^.\[\]]+)")
_MODELS = ("base_model", "model", "tokenizer_source")
_MOST_POINTS = 10_000


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Knob(_Part):
    """The values that one parameter may take: a range of numbers, or a list to choose from."""

    low: float | None = Field(default=None, alias="from", title="From")
    high: float | None = Field(default=None, alias="to", title="To")
    step: float | None = Field(default=None, gt=0.0, title="Step")
    """Only these: `from`, `from + step`, and so on."""
    log: bool = Field(default=False, title="Logarithmic")
    """Sample the logarithm evenly, for what spans orders of magnitude."""
    choices: tuple[Value, ...] = Field(default=(), title="Choices")
    """In place of a range. In a file, the list alone."""

    @model_validator(mode="before")
    @classmethod
    def _a_list_is_a_choice(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            if not value:
                raise ValueError("this list of values to choose from is empty")
            return {"choices": list(value)}
        if not isinstance(value, dict):
            raise ValueError(
                "this must be a range, {from: 0.1, to: 0.9}, or a list of values to choose from"
            )
        return value

    @field_validator("choices", mode="before")
    @classmethod
    def _are_plain(cls, choices: Any) -> Any:
        for each in choices if isinstance(choices, list | tuple) else ():
            if not isinstance(each, bool | int | float | str):
                raise ValueError(
                    "a value to choose is a number, a text, true or false; a place in a list has a"
                    " path of its own, like parameters.t[1]"
                )
        return choices

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        ends = (self.low, self.high)
        if self.choices:
            if any(end is not None for end in ends) or self.step or self.log:
                raise ValueError("this has choices and a range; keep one")
            if len(set(self.choices)) < len(self.choices):  # 1 and 1.0 are one value
                raise ValueError("a value stands twice among the choices")
            return self
        if self.low is None or self.high is None:
            raise ValueError("a range needs both `from` and `to`")
        if self.low >= self.high:
            raise ValueError(f"from ({self.low:g}) has to be below to ({self.high:g})")
        if self.log and (self.low <= 0 or self.step):
            raise ValueError("a logarithmic range begins above 0 and has no step")
        if self.step:
            if (self.high - self.low) / self.step > _MOST_POINTS:
                raise ValueError(f"that makes more than {_MOST_POINTS} values")
            Steps.between(self.low, self.high, self.step)
        return self

    @property
    def steps(self) -> Steps | None:
        """The numbers of a range that has a step."""
        if self.step is None or self.low is None or self.high is None:
            return None
        return Steps.between(self.low, self.high, self.step)

    @property
    def points(self) -> tuple[Value, ...] | None:
        """All values, where they can be counted."""
        if self.choices:
            return self.choices
        steps = self.steps
        return None if steps is None else tuple(map(self._written, steps.numbers))

    @property
    def count(self) -> int | None:
        """How many values there are, where they can be counted."""
        steps = self.steps
        return len(self.choices) or (None if steps is None else steps.count)

    @property
    def ends(self) -> tuple[Value, ...]:
        """Values that show whether a recipe takes the others."""
        points = self.points
        if self.choices or points is None:
            return self.choices or (self.value(self.low or 0.0), self.value(self.high or 0.0))
        return tuple(dict.fromkeys((points[0], points[-1])))

    def value(self, number: float) -> Value:
        """A number of the range as a recipe has it: 0.3, not 0.30000000000000004."""
        steps = self.steps
        return self._written(steps.nearest(number) if steps else float(f"{number:.12g}"))

    def _written(self, number: float) -> Value:
        whole = self.step is not None and self.step.is_integer() and number.is_integer()
        return int(number) if whole else number

    def has(self, value: Value) -> bool:
        """Whether the search may choose a value."""
        points = self.points
        if points is not None:
            return value in points
        inside = isinstance(value, int | float) and self.low is not None and self.high is not None
        return inside and float(self.low or 0) <= float(value) <= float(self.high or 0)


Knobs = dict[str, Knob]


def checked_names(knobs: Knobs) -> Knobs:
    """The knobs, if each names something that may be searched.

    Raises:
        ValueError: one does not.
    """
    for name in knobs:
        if not _PATH.match(name):
            raise ValueError(
                f"'{name}' is no path of a recipe; write weight, models[0].weight or"
                " parameters.t[1]"
            )
        if name == METHOD or _STEP.findall(name)[-1][1] in (*_MODELS, "merge_method"):
            raise ValueError(f"'{name}' cannot be searched; methods are listed under `methods`")
    return knobs


class MethodChoice(_Part):
    """One of the merge methods to choose from, with the parameters that only it has."""

    name: str = Field(title="Method")
    space: Knobs = Field(default_factory=dict, title="Parameters of this method alone")

    _names = field_validator("space")(checked_names)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and len(value) == 1 and "name" not in value:
            [(name, space)] = value.items()
            return {"name": name, "space": space or {}}
        return value

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if find_method(name) is None:
            raise ValueError(f"there is no method '{name}'; {did_you_mean(name, list(METHODS))}")
        return name


class Space(_Part):
    """All that a search may change."""

    knobs: Knobs = Field(default_factory=dict)
    methods: tuple[MethodChoice, ...] = ()

    _names = field_validator("knobs")(checked_names)

    @property
    def branches(self) -> Iterator[tuple[str | None, Knobs]]:
        """For each method the knobs that there are with it."""
        for method in self.methods or (None,):
            if method is None:
                yield None, self.knobs
            else:
                own = {f"{method.name}.{name}": knob for name, knob in method.space.items()}
                yield method.name, {**self.knobs, **own}

    @property
    def size(self) -> int | None:
        """How many combinations there are; None where a range has no step."""
        counts = [[knob.count for knob in knobs.values()] for _, knobs in self.branches]
        if any(count is None for branch in counts for count in branch):
            return None
        return sum(math.prod(count or 0 for count in branch) for branch in counts)

    def points(self) -> list[dict[str, Value]] | None:
        """Every combination, the last knob turning fastest; None where a range has no step."""
        found: list[dict[str, Value]] = []
        for method, knobs in self.branches:
            columns = [knob.points for knob in knobs.values()]
            if any(column is None for column in columns):
                return None
            first = {METHOD: method} if method else {}
            for values in itertools.product(*(column or () for column in columns)):
                found.append({**first, **dict(zip(knobs, values, strict=True))})
                if len(found) > _MOST_POINTS:
                    raise RecipeError(
                        f"the grid has more than {_MOST_POINTS} points",
                        where="search.space",
                        mend="take larger steps, or another sampler",
                    )
        return found

    def recipe(self, template: Recipe, values: Values) -> Recipe:
        """The recipe with these values in place of its own.

        Raises:
            RecipeError: there is no such place in it, or it does not take the value.
        """
        document: dict[str, Any] = copy.deepcopy(
            template.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)
        )
        method = values.get(METHOD)
        if method is not None:
            document["merge_method"] = method
        named = [name for name in values if name != METHOD]
        places = {name: name.removeprefix(f"{method}.") if method else name for name in named}
        # What is said of every model first: a place of its own has the last word.
        for name in sorted(named, key=lambda each: not is_word(places[each])):
            _turn(document, places[name], values[name])
        return parse_recipe({key: item for key, item in document.items() if item != []}, "recipe")


def is_of_all_weights(name: str, template: Recipe) -> bool:
    """Whether a knob is the weight of every model at once."""
    return parameter_of(name, template.merge_method) == "weight"


def is_word(name: str) -> bool:
    """Whether a knob is a parameter for every model, and no path."""
    return bool(_WORD.match(name)) and name not in Recipe.model_fields


def steps_of(name: str) -> list[int | str]:
    """The way through a recipe that a path names."""
    return [int(index) if index else word for index, word in _STEP.findall(name)]


def parameter_of(word: str, method: str) -> str:
    if word != "alpha":
        return word
    known = {parameter.name for parameter in method_named(method).parameters}
    return "alpha" if "alpha" in known else "weight"


def _turn(document: dict[str, Any], name: str, value: Value) -> None:
    if is_word(name):
        parameter = parameter_of(name, str(document["merge_method"]))
        _forget(document, parameter)
        document.setdefault("parameters", {})[parameter] = value
        return
    steps = steps_of(name)
    place: Any = document
    for depth, step in enumerate(steps):
        if isinstance(place, dict) and step not in place and "model" in place:
            place = place.setdefault("parameters", {})
        is_last = depth == len(steps) - 1
        if is_last and isinstance(place, dict) and isinstance(step, str):
            place[step] = value
            return
        try:
            if is_last:
                place[step] = value
            else:
                place = place[step]
        except (KeyError, IndexError, TypeError):
            raise RecipeError(
                f"the recipe has no {name}",
                mend="write the place into the recipe, with any value: the search replaces it",
            ) from None


def _forget(part: Any, parameter: str) -> None:
    """Take a parameter out of every part of a recipe, so that one for the whole counts."""
    if isinstance(part, dict):
        for key, item in part.items():
            if key == "parameters" and isinstance(item, dict):
                item.pop(parameter, None)
            elif key not in ("post", "calibration"):
                _forget(item, parameter)
    elif isinstance(part, list):
        for item in part:
            _forget(item, parameter)
