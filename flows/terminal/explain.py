"""The settings of each tensor and their origin, as people and programs read them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from rich.table import Table

from flows.terminal.console import Terminal, add_row, literal
from merge_core.errors import RecipeError, did_you_mean
from merge_core.planning.explain import Explained, Ingredient, Settings, idle_filters
from merge_core.planning.merged_tensors import RecipeInputs
from merge_core.recipes.parameters import DEFAULT, Resolved
from merge_core.recipes.recipe import Recipe
from merge_core.tensors.dtypes import name_of
from merge_core.tensors.names import layer_of


class _Row(NamedTuple):
    name: str
    """The parameter, and whose it is: `weight of ./code`."""
    resolved: Resolved


def chosen(tensors: Sequence[Explained], pattern: str) -> list[Explained]:
    """The tensors of this name, or of the names that fit this glob.

    Raises:
        RecipeError: there are none.
    """
    found = [each for each in tensors if each.name == pattern]
    found = found or [each for each in tensors if fnmatchcase(each.name, pattern)]
    if not found:
        near = did_you_mean(pattern, [each.name for each in tensors])
        raise RecipeError(
            f"no tensor of the result is called '{pattern}'"
            + (f"; {near}" if near.startswith("did") else ""),
            where="TENSOR",
            mend="`mergeflow plan RECIPE --tensors` lists them; * stands for any part of a name",
        )
    return found


def show_tensors(terminal: Terminal, tensors: Sequence[Explained]) -> None:
    """Tensors one by one: what each is made of, and where its parameters come from."""
    for tensor in tensors:
        made_by = f" of the recipe {tensor.recipe}" if tensor.recipe else ""
        terminal.say(f"{tensor.name}{made_by}", style="bold")
        shape = "x".join(map(str, tensor.shape)) or "scalar"
        place = (
            f"layer {tensor.layer}, depth {tensor.depth:.3g}"
            if tensor.layer is not None
            else ("outside the layers")
        )
        terminal.say(
            f"  {_method(tensor)}; {tensor.group}, {place}; {shape} {name_of(tensor.dtype)}"
        )
        if tensor.base:
            terminal.say(f"  base   {_ingredient(tensor.base, tensor)}")
        for ingredient in tensor.inputs:
            terminal.say(f"  model  {_ingredient(ingredient, tensor)}")
        _show_rows(
            terminal,
            [
                (row, literal(row.resolved.value), _origin(row.resolved, tensor.depth))
                for row in _rows(tensor)
            ],
        )
        terminal.say()


def show_settings(
    terminal: Terminal, recipe: Recipe, tensors: Sequence[Explained], inputs: RecipeInputs
) -> None:
    """All tensors, counted by where their settings come from: one block for each distinct one."""
    for each in (*recipe.recipes, recipe):
        name = "" if each is recipe else str(each.name)
        title = f"{name} = {each.merge_method}" if name else each.merge_method
        terminal.say(f"{title}: {each.method.summary}", style="bold")
        own = [tensor for tensor in tensors if tensor.recipe == name]
        _show_groups(terminal, own)
        terminal.say()
    for warning in idle_filters(recipe, tensors, inputs):
        terminal.warn(warning)
    terminal.say("more about one: mergeflow explain RECIPE TENSOR")


def explained_json(tensor: Explained) -> dict[str, Any]:
    """One tensor for programs."""

    def settings(values: Settings) -> dict[str, Any]:
        return {
            name: {
                "value": resolved.value,
                "from": resolved.where,
                "chosen_by": resolved.chosen_by or None,
                "gradient": resolved.is_gradient,
            }
            for name, resolved in values.items()
        }

    per_model = tensor.model_settings or ({},) * len(tensor.inputs)
    return {
        "recipe": tensor.recipe or None,
        "name": tensor.name,
        "method": tensor.method,
        "excluded_by": tensor.excluded_by or None,
        "copy_of": tensor.copy_of or None,
        "group": tensor.group,
        "layer": tensor.layer,
        "depth": tensor.depth,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "part": tensor.part,
        "base": dataclasses.asdict(tensor.base) if tensor.base else None,
        "models": [
            dataclasses.asdict(ingredient) | {"parameters": settings(values)}
            for ingredient, values in zip(tensor.inputs, per_model, strict=True)
        ],
        "parameters": settings(tensor.settings),
        "post": [{"step": step, "parameters": settings(values)} for step, values in tensor.post],
    }


def _show_groups(terminal: Terminal, tensors: Sequence[Explained]) -> None:
    groups: dict[object, list[Explained]] = {}
    for tensor in tensors:
        groups.setdefault(_sameness(tensor), []).append(tensor)
    for members in groups.values():
        first = members[0]
        terminal.say()
        count = f"{len(members)} tensors" if len(members) > 1 else "1 tensor"
        terminal.say(f"{count}, for example {first.name}: {_method(first)}")
        rows = zip(*(_rows(member) for member in members), strict=True)
        _show_rows(
            terminal,
            [
                (same[0], _span([row.resolved.value for row in same]), _origin(same[0].resolved))
                for same in rows
            ],
        )


def _rows(tensor: Explained) -> list[_Row]:
    rows = [
        _Row(f"{name} of {ingredient.model}", resolved)
        for ingredient, values in zip(tensor.inputs, tensor.model_settings, strict=False)
        for name, resolved in values.items()
    ]
    rows += [_Row(name, resolved) for name, resolved in tensor.settings.items()]
    for step, values in tensor.post:
        rows += [_Row(f"{step}: {name}", resolved) for name, resolved in values.items()]
    return rows


def _show_rows(terminal: Terminal, rows: Sequence[tuple[_Row, str, str]]) -> None:
    """Settings of the recipe in a table, defaults in a line below."""
    table = Table(box=None, show_header=False, padding=(0, 0, 0, 2))
    for row, value, origin in rows:
        if origin != DEFAULT:
            add_row(table, row.name, value, origin)
    if table.row_count:
        terminal.results.print(table)
    defaults = [f"{row.name} {value}" for row, value, origin in rows if origin == DEFAULT]
    if defaults:
        terminal.say(f"  by default: {', '.join(defaults)}")


def _sameness(tensor: Explained) -> object:
    """Equal for tensors whose settings have the same origin."""
    rows = [
        (row.name, row.resolved.where, None if row.resolved.is_gradient else row.resolved.value)
        for row in _rows(tensor)
    ]
    return (tensor.method, tensor.excluded_by, tensor.part, tuple(rows))


def _method(tensor: Explained) -> str:
    if tensor.copy_of:
        return f"a copy of {tensor.copy_of} in every input, and so here"
    if tensor.excluded_by:
        source = tensor.base.model if tensor.base else tensor.inputs[0].model
        return f"taken from {source} as it is, by {tensor.excluded_by}"
    return "; ".join([tensor.method, *(f"then {step}" for step, _ in tensor.post)])


def _ingredient(ingredient: Ingredient, tensor: Explained) -> str:
    layer = layer_of(ingredient.tensor)
    moved = f", layer {layer}" if layer is not None and layer != tensor.layer else ""
    return f"{ingredient.model}{moved}"


def _origin(resolved: Resolved, depth: float | None = None) -> str:
    gradient = "gradient" if depth is None else f"gradient at depth {depth:.3g}"
    notes = [*([resolved.chosen_by] if resolved.chosen_by else [])]
    notes += [gradient] if resolved.is_gradient else []
    return f"{resolved.where} ({', '.join(notes)})" if notes else resolved.where


def _span(values: Sequence[float | bool | str]) -> str:
    numbers = [value for value in values if isinstance(value, float) and value is not True]
    if len(numbers) == len(values) and min(numbers) < max(numbers):
        return f"{literal(min(numbers))} to {literal(max(numbers))}"
    return ", ".join(dict.fromkeys(literal(value) for value in values))
