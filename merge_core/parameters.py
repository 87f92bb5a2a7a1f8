"""Parameters of merge methods: what may be written in a recipe, and its value for one tensor.

A value is a number, a bool or a word; a list of numbers (a *gradient* over the layers); or a list
of `{filter, value}` entries of which the first whose filter is part of the tensor's name counts.
Resolution follows mergekit: the model's own parameters, then the recipe's, then the default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from merge_core.errors import RecipeError, did_you_mean

Scalar = float | bool | str


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method.

    kind: "number", "flag" or "choice". `per_model` parameters may differ between models; the others
    are set once, at the top of the recipe. `default` None means that it must be given.
    """

    name: str
    help: str
    default: Scalar | None
    kind: str = "number"
    per_model: bool = False
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()

    def check(self, value: Any, where: str) -> Scalar:
        """`value` as this parameter's kind.

        Raises:
            RecipeError: wrong kind, not finite, out of bounds, not one of the choices.
        """
        if self.kind == "flag" or (self.kind == "choice" and isinstance(value, bool)):
            if not isinstance(value, bool):
                raise RecipeError(f"{self.name} must be true or false, not {value!r}", where=where)
            return value
        if self.kind == "choice":
            if value not in self.choices:
                raise RecipeError(
                    f"{self.name} cannot be {value!r}; {did_you_mean(str(value), self.choices)}",
                    where=where,
                )
            return str(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RecipeError(f"{self.name} must be a number, not {value!r}", where=where)
        if not math.isfinite(value) or not self.low <= value <= self.high:
            raise RecipeError(
                f"{self.name} must be {_range(self.low, self.high)}, not {value}", where=where
            )
        return float(value)


def check_settings(
    settings: Mapping[str, Any],
    known: Sequence[Parameter],
    where: str,
    *,
    method: str,
    models: Sequence[str],
) -> None:
    """Check every value of a `parameters:` mapping in all its forms.

    Raises:
        RecipeError: an unknown parameter ("did you mean"), or a value that its parameter refuses.
    """
    table = {parameter.name: parameter for parameter in known}
    for name, value in settings.items():
        parameter = table.get(name)
        if parameter is None:
            raise RecipeError(
                f"{method} has no parameter '{name}' here; {did_you_mean(name, table)}",
                where=f"{where}.{name}",
            )
        _check_value(parameter, value, f"{where}.{name}", models)


def resolve(
    parameter: Parameter, levels: Sequence[Mapping[str, Any]], tensor: str, depth: float
) -> Scalar:
    """The value of a parameter for one tensor: the first level that says something, or the default.

    Args:
        levels: `parameters:` mappings, the most specific first.
        tensor: the name that filters are matched against.
        depth: position of its layer from 0 to 1, where gradients are read.

    Raises:
        RecipeError: no level gives a value and the parameter has no default.
    """
    for level in levels:
        if parameter.name in level:
            value = _evaluate(level[parameter.name], tensor, depth)
            if value is not None:
                return value
    if parameter.default is None:
        raise RecipeError(
            f"no value of '{parameter.name}' for tensor {tensor}",
            mend=f"give every model a {parameter.name}, or one at the top under parameters",
        )
    return parameter.default


def _evaluate(value: Any, tensor: str, depth: float) -> Scalar | None:
    if not isinstance(value, list | tuple):
        return float(value) if type(value) is int else value
    if isinstance(value[0], Mapping):
        for entry in value:
            pattern = entry.get("filter")
            if pattern is None or pattern == "*" or pattern in tensor:
                return _evaluate(entry["value"], tensor, depth)
        return None
    if not all(type(item) in (int, float) for item in value):
        chosen = value[int(depth * (len(value) - 1))]
        return float(chosen) if type(chosen) is int else chosen
    return gradient(value, depth)


def gradient(values: Sequence[float], depth: float) -> float:
    """Piecewise linear interpolation of evenly spaced `values` at `depth` in [0, 1]."""
    position = depth * (len(values) - 1)
    left = int(position)
    right = min(len(values) - 1, left + 1)
    fraction = position - left
    return (1 - fraction) * values[left] + fraction * values[right]


def _check_value(parameter: Parameter, value: Any, where: str, models: Sequence[str]) -> None:
    if isinstance(value, Mapping):
        _refuse_mapping(parameter, value, where, models)
    elif isinstance(value, list | tuple):
        if not value:
            raise RecipeError(f"{parameter.name} is an empty list", where=where)
        if any(isinstance(item, Mapping) for item in value):
            for index, entry in enumerate(value):
                _check_conditional(parameter, entry, f"{where}[{index}]", models)
        else:
            for index, item in enumerate(value):
                parameter.check(item, f"{where}[{index}]")
    else:
        parameter.check(value, where)


def _check_conditional(parameter: Parameter, entry: Any, where: str, models: Sequence[str]) -> None:
    if not isinstance(entry, Mapping) or "value" not in entry or set(entry) - {"filter", "value"}:
        raise RecipeError(
            "a conditional entry has the keys 'filter' and 'value', and no others", where=where
        )
    if not isinstance(entry.get("filter"), str | None):
        raise RecipeError("filter must be a part of tensor names, as text", where=where)
    value = entry["value"]
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        raise RecipeError("filters cannot be nested", where=f"{where}.value")
    _check_value(parameter, value, f"{where}.value", models)


def _refuse_mapping(
    parameter: Parameter, value: Mapping[str, Any], where: str, models: Sequence[str]
) -> None:
    if set(value) <= {"filter", "value"}:
        raise RecipeError("a filter must be an entry of a list: put '- ' before it", where=where)
    strangers = [str(key) for key in value if key not in models]
    if strangers:
        raise RecipeError(
            f"{parameter.name} is given for the model '{strangers[0]}', which is not listed under"
            f" models; {did_you_mean(strangers[0], models)}",
            where=where,
            mend=f"list the model, with its own parameters.{parameter.name}",
        )
    raise RecipeError(
        f"{parameter.name} for each model goes under that model",
        where=where,
        mend=f"write it as models[i].parameters.{parameter.name}",
    )


def _range(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return "a finite number"
    if math.isinf(high):
        return f"at least {low:g}"
    if math.isinf(low):
        return f"at most {high:g}"
    return f"between {low:g} and {high:g}"
