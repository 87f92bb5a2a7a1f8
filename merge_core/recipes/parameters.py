"""Parameters of merge methods: what may be written in a recipe, and its value for one tensor.

A value is a number, a bool or a word; a list of numbers (a *gradient* over the layers); or a list
of entries with a `value` and a filter (see `merge_core.tensors.filters`), of which the first whose
filter fits the tensor counts. Resolution follows mergekit: the model's own parameters, then those
of its slice, its module and the recipe, then the default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from merge_core.errors import RecipeError, did_you_mean
from merge_core.findings import printable
from merge_core.methods.parameter import Parameter, Scalar
from merge_core.tensors.filters import FILTER_KEYS, check_filter, described, matcher

DEFAULT = "default"
"""In place of a YAML path: nobody set the parameter."""


class Level(Mapping[str, Any]):
    """A `parameters:` mapping of a recipe that knows its place."""

    def __init__(self, where: str, settings: Mapping[str, Any]) -> None:
        self.where = where
        """Its YAML path: `models[1].parameters`."""
        self._settings = settings

    def __getitem__(self, name: str) -> Any:
        return self._settings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A parameter's value for one tensor, and why it has it."""

    value: Scalar
    where: str
    """YAML path of the setting it comes from: `models[1].parameters.weight[2]`; or `default`."""
    chosen_by: str = ""
    """The filter of the entry that was chosen: `group norms`."""
    is_gradient: bool = False
    """Whether it was interpolated at the tensor's depth."""


def canonical_setting(parameter: Parameter, value: Any) -> Any:
    """A setting in the form that recipes have it: see `Parameter.canonical`.

    A filter that stands alone becomes a list of one.
    """
    if isinstance(value, Mapping) and "value" in value and set(value) <= {"value", *FILTER_KEYS}:
        value = [value]
    if not isinstance(value, list | tuple):
        return parameter.canonical(value)
    return [
        {**item, "value": _canonical_values(parameter, item["value"])}
        if isinstance(item, Mapping) and "value" in item
        else parameter.canonical(item)
        for item in value
    ]


def _canonical_values(parameter: Parameter, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [parameter.canonical(item) for item in value]
    return parameter.canonical(value)


def setting_problems(
    settings: Mapping[str, Any],
    known: Sequence[Parameter],
    where: str,
    *,
    method: str,
    models: Sequence[str],
) -> list[RecipeError]:
    """Check every value of a `parameters:` mapping in all its forms.

    Returns:
        One for each unknown parameter ("did you mean") and each value that its parameter refuses.
    """
    table = {parameter.name: parameter for parameter in known}
    problems = []
    for name, value in settings.items():
        place = f"{where}.{printable(name)}"
        try:
            if name not in table:
                raise RecipeError(
                    f"{method} has no parameter '{printable(name)}' here;"
                    f" {did_you_mean(str(name), table)}",
                    where=place,
                )
            _check_value(table[name], value, place, models)
        except RecipeError as problem:
            problems.append(problem)
    return problems


def resolver(
    parameter: Parameter, levels: Sequence[Mapping[str, Any]]
) -> Callable[[str, float], Scalar]:
    """`resolve` for many tensors, by name and depth: the levels are looked through once."""
    rules = [
        (matching, _fixed(value), value) for matching, value, _, _ in _rules(parameter, levels)
    ]

    def resolved(tensor: str, depth: float) -> Scalar:
        for matching, fixed, value in rules:
            if matching is None or matching(tensor):
                return _evaluate(value, depth) if fixed is None else fixed
        return _default(parameter, tensor)

    return resolved


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
    for matching, value, _, _ in _rules(parameter, levels):
        if matching is None or matching(tensor):
            return _evaluate(value, depth)
    return _default(parameter, tensor)


def tracer(parameter: Parameter, levels: Sequence[Level]) -> Callable[[str, float], Resolved]:
    """What `resolver` gives, with the place that it comes from."""
    rules = [
        (matching, value, *_origin(levels[level], parameter.name, choice))
        for matching, value, level, choice in _rules(parameter, levels)
    ]
    constants = [
        None if (fixed := _fixed(value)) is None else Resolved(fixed, where, chosen_by)
        for _, value, where, chosen_by in rules
    ]
    traces = list(zip(rules, constants, strict=True))

    def traced(tensor: str, depth: float) -> Resolved:
        for (matching, value, where, chosen_by), constant in traces:
            if matching is None or matching(tensor):
                return constant or Resolved(_evaluate(value, depth), where, chosen_by, True)
        return Resolved(_default(parameter, tensor), DEFAULT)

    return traced


def _origin(level: Level, name: str, choice: int | None) -> tuple[str, str]:
    """The YAML path of a rule, and its filter in words."""
    where = f"{level.where}.{name}"
    return (where, "") if choice is None else (f"{where}[{choice}]", described(level[name][choice]))


def _rules(
    parameter: Parameter, levels: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Callable[[str], object] | None, Any, int, int | None]]:
    """What decides on a parameter, in order: a filter or None, the value, its level and entry."""
    for index, level in enumerate(levels):
        if parameter.name not in level:
            continue
        setting = level[parameter.name]
        if not _is_conditional(setting):
            yield None, setting, index, None
            return
        for choice, entry in enumerate(setting):
            yield matcher(entry), entry["value"], index, choice


def _default(parameter: Parameter, tensor: str) -> Scalar:
    if parameter.default is None:
        raise RecipeError(
            f"no value of '{parameter.name}' for tensor {tensor}",
            mend=f"give every model a {parameter.name}, or one at the top under parameters",
        )
    return parameter.default


def _fixed(value: Any) -> Scalar | None:
    """A value that is the same at every depth; None for a gradient."""
    return None if isinstance(value, list | tuple) else _evaluate(value, 0.0)


def _is_conditional(setting: Any) -> bool:
    return isinstance(setting, list | tuple) and isinstance(setting[0], Mapping)


def _evaluate(value: Any, depth: float) -> Scalar:
    if not isinstance(value, list | tuple):
        chosen: Scalar = value
    elif all(type(item) in (int, float) for item in value):
        return gradient(value, depth)
    else:
        chosen = value[int(depth * (len(value) - 1))]
    return float(chosen) if type(chosen) is int else chosen


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
    if not isinstance(entry, Mapping) or "value" not in entry:
        raise RecipeError(
            f"an entry has a 'value' and a filter ({', '.join(FILTER_KEYS)})", where=where
        )
    strangers = [str(key) for key in entry if key not in ("value", *FILTER_KEYS)]
    if strangers:
        known = ("value", *FILTER_KEYS)
        raise RecipeError(
            f"unknown key '{strangers[0]}'; {did_you_mean(strangers[0], known)}", where=where
        )
    check_filter(entry, where)
    value = entry["value"]
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        raise RecipeError("filters cannot be nested", where=f"{where}.value")
    _check_value(parameter, value, f"{where}.value", models)


def _refuse_mapping(
    parameter: Parameter, value: Mapping[str, Any], where: str, models: Sequence[str]
) -> None:
    if set(value) <= {"value", *FILTER_KEYS}:
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
