"""Why a recipe does what it does to a tensor: every parameter's value and the place it comes from.

Shares expansion and resolution with planning, so what is explained is what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from merge_core.methods.parameter import Parameter
from merge_core.methods.post_steps import post_step_named
from merge_core.planning.expansion import Expansion, expand
from merge_core.planning.merged_tensor import COPY, MergedTensor
from merge_core.planning.merged_tensors import RecipeInputs, plan_tensors
from merge_core.recipes.parameters import Level, Resolved, tracer
from merge_core.recipes.parts import Part
from merge_core.recipes.recipe import Recipe
from merge_core.runtime.garbage import collection_paused
from merge_core.tensors.filters import described, is_total, matcher, matches
from merge_core.tensors.names import Group, group_of, layer_of

KEPT = "kept"
"""In place of a method: excluded, and taken over as it is."""

Settings = Mapping[str, Resolved]
"""Resolved parameters by name."""
_Tracers = Mapping[str, Callable[[str, float], Resolved]]


@dataclass(frozen=True)
class Ingredient:
    """A tensor that goes into another."""

    model: str
    """Reference of its checkpoint, or name of the recipe that it is a result of."""
    tensor: str


@dataclass(frozen=True)
class Explained:
    """One tensor of a result, and why it is made as it is."""

    recipe: str
    """Name of the recipe that makes it; "" for the last one, whose result is written."""
    name: str
    shape: tuple[int, ...]
    dtype: str
    """Safetensors code of the dtype that it is stored in."""
    group: Group
    layer: int | None
    depth: float
    """Where gradients are read, from 0 to 1."""
    part: str
    """YAML path of the models that it is made of."""
    method: str
    """The merge method, `copy` or `kept`."""
    excluded_by: str
    """The filter that excludes it."""
    base: Ingredient | None
    inputs: tuple[Ingredient, ...]
    model_settings: tuple[Settings, ...] = ()
    """One for each input; none for a tensor that is not merged."""
    settings: Settings = field(default_factory=dict)
    post: tuple[tuple[str, Settings], ...] = ()
    copy_of: str = ""
    """The tensor that it is a copy of in every input, and so in the result."""


@collection_paused()
def explain(recipe: Recipe, inputs: RecipeInputs) -> list[Explained]:
    """Every tensor of a recipe's result, after those of the recipes that it uses by name.

    Raises:
        CompatibilityError, RecipeError: as for planning.
    """
    result = {tensor.name: tensor for tensor in plan_tensors(recipe, inputs)}
    explained = []
    for each in (*recipe.recipes, recipe):
        made = result if each is recipe else inputs.checkpoints[str(each.name)].tensors
        traces = _Traces(each)
        expansions = {expansion.name: expansion for expansion in expand(each, inputs.checkpoints)}
        for name, expansion in expansions.items():
            tensor = made[name]
            assert isinstance(tensor, MergedTensor)
            place = "" if each is recipe else str(each.name)
            origin = expansions.get(tensor.copy_of, expansion)
            found = _explained(each, place, origin, tensor, traces)
            if origin is not expansion:
                found = replace(found, name=name, group=group_of(name), copy_of=tensor.copy_of)
            explained.append(found)
    return explained


def has_filters(recipe: Recipe) -> bool:
    """Whether `idle_filters` can find any: without it nothing has to be explained."""
    return any(_filters(each) for each in (*recipe.recipes, recipe))


def idle_filters(recipe: Recipe, tensors: Sequence[Explained], inputs: RecipeInputs) -> list[str]:
    """In words, the entries whose filter decides on no tensor: often a typo in the filter.

    Args:
        tensors: all that `explain` gives for the recipe.
        inputs: of the recipe: what is excluded is in some model, and need not be in the result.
    """
    found = []
    for each in (*recipe.recipes, recipe):
        stacked = any(section.stacked for section in each.sections)
        used = () if stacked else each.direct_references()
        stored = {name for reference in used for name in inputs.checkpoints[reference].tensors}
        name = "" if each is recipe else str(each.name)
        own = [tensor for tensor in tensors if tensor.recipe == name]
        start = f"recipe {name}: " if name else ""
        found += [f"{start}{entry} decides on no tensor" for entry in _idle(each, own, stored)]
    return found


def _idle(recipe: Recipe, tensors: Sequence[Explained], stored: Collection[str]) -> list[str]:
    used = {
        resolved.where
        for tensor in tensors
        for settings in (
            *tensor.model_settings,
            tensor.settings,
            *(each for _, each in tensor.post),
        )
        for resolved in settings.values()
    }
    return [
        f"{place} ({described(entry)})"
        for place, entry in _filters(recipe).items()
        if not (
            any(map(matcher(entry), (*(tensor.name for tensor in tensors), *stored)))
            if place.startswith("exclude[")
            else place in used
        )
    ]


def _filters(recipe: Recipe) -> dict[str, Mapping[str, Any]]:
    """The entries of a recipe that are about some tensors only, by their YAML path."""
    levels = [level for index in range(len(recipe.post)) for level in recipe.post_levels(index)]
    for part in recipe.parts:
        levels += [*(member.own for member in recipe.inputs(part)), *recipe.levels(part)]
    found = {
        f"{level.where}.{name}[{index}]": entry
        for level in levels
        for name, setting in level.items()
        if isinstance(setting, list | tuple) and isinstance(setting[0], Mapping)
        for index, entry in enumerate(setting)
        if not is_total(entry)
    }
    return found | {f"exclude[{index}]": entry for index, entry in enumerate(recipe.exclude)}


class _Traces:
    """How the parameters of one recipe are found, looked up once for all tensors of a part."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._post = tuple(
            (
                entry.step,
                _tracers(post_step_named(entry.step).parameters, recipe.post_levels(index)),
            )
            for index, entry in enumerate(recipe.post)
        )
        self._of_parts: dict[int, tuple[Part, list[_Tracers], _Tracers]] = {}

    def settings(
        self, each: Expansion
    ) -> tuple[tuple[Settings, ...], Settings, tuple[tuple[str, Settings], ...]]:
        """Of each model, of the recipe and of its post steps, for one tensor."""
        _, per_model, recipe_wide = self._of(each.part)
        return (
            tuple(
                _settings(tracers, source.name, each.depth)
                for tracers, source in zip(per_model, each.inputs, strict=True)
            ),
            _settings(recipe_wide, each.name, each.depth),
            tuple(
                (step, _settings(tracers, each.name, each.depth)) for step, tracers in self._post
            ),
        )

    def _of(self, part: Part) -> tuple[Part, list[_Tracers], _Tracers]:
        found = self._of_parts.get(id(part))
        if found is None:
            recipe, method = self._recipe, self._recipe.method
            per_model = [
                _tracers(method.per_model(), recipe.levels(part, member))
                for member in recipe.inputs(part)
            ]
            found = (part, per_model, _tracers(method.recipe_wide(), recipe.levels(part)))
            self._of_parts[id(part)] = found
        return found


def _explained(
    recipe: Recipe, place: str, each: Expansion, tensor: MergedTensor, traces: _Traces
) -> Explained:
    members = each.part.members[: len(each.inputs)] if each.kept else recipe.inputs(each.part)
    method = KEPT if each.kept else tensor.method
    merged = method not in (KEPT, COPY)
    model_settings, settings, post = traces.settings(each) if merged else ((), {}, ())
    return Explained(
        recipe=place,
        name=each.name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        group=group_of(each.name),
        layer=layer_of(each.name),
        depth=each.depth,
        part=each.part.where,
        method=method,
        excluded_by=_excluded_by(recipe, each.name) if each.kept else "",
        base=Ingredient(each.part.base, each.base.name) if each.part.base and each.base else None,
        inputs=tuple(
            Ingredient(member.model, source.name)
            for member, source in zip(members, each.inputs, strict=True)
        ),
        model_settings=model_settings,
        settings=settings,
        post=post,
    )


def _tracers(parameters: Sequence[Parameter], levels: Sequence[Level]) -> _Tracers:
    return {parameter.name: tracer(parameter, levels) for parameter in parameters}


def _settings(tracers: _Tracers, tensor: str, depth: float) -> Settings:
    return {name: traced(tensor, depth) for name, traced in tracers.items()}


def _excluded_by(recipe: Recipe, tensor: str) -> str:
    index, entry = next(
        (index, entry) for index, entry in enumerate(recipe.exclude) if matches(entry, tensor)
    )
    return f"exclude[{index}] ({described(entry)})"
