"""Merge methods, and the steps after them, as people and programs read them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from flows.terminal.console import Terminal, add_row, literal, table_of
from merge_core.files.strict_yaml import dump_yaml
from merge_core.methods.base import Method
from merge_core.methods.parameter import Parameter, Scalar
from merge_core.methods.post_steps import PostStep

_EXAMPLE_NUMBER = 0.5
"""For parameters that have no default."""


def show_methods(terminal: Terminal, methods: Iterable[Method], steps: Iterable[PostStep]) -> None:
    """A table of all methods, then the steps that may follow any of them."""
    others = ("what it does", "base model", "models")
    table = table_of("method", *others, right=("models",), wraps=others)
    for method in methods:
        add_row(table, method.name, method.summary, method.base, _models(method))
    terminal.results.print(table)
    terminal.say()
    terminal.say("after any method that has a base model, under post:")
    for step in steps:
        terminal.say(f"  {step.name:<8}{step.summary}")
    terminal.say()
    terminal.say("more about one: mergeflow methods NAME")


def show_method(terminal: Terminal, method: Method) -> None:
    """One method with its formula, its parameters and its paper."""
    terminal.say(f"{method.name}: {method.summary}", style="bold")
    terminal.say()
    terminal.say_lines(method.formula())
    terminal.say()
    terminal.say(f"base model: {method.base}; models: {_models(method)}")
    if method.paper:
        terminal.say(f"from: {method.paper}")
    _show_parameters(terminal, method.parameters)
    terminal.say_lines("\na minimal recipe:\n")
    terminal.say_lines(dump_yaml([minimal_recipe(method)]).rstrip())


def show_step(terminal: Terminal, step: PostStep) -> None:
    """One post-step with its formula, its parameters and its paper."""
    terminal.say(f"{step.name}: {step.summary}", style="bold")
    terminal.say()
    terminal.say_lines(step.formula())
    terminal.say()
    terminal.say(f"from: {step.paper}")
    _show_parameters(terminal, step.parameters)
    terminal.say_lines("\nin a recipe:\n")
    terminal.say_lines(dump_yaml([{"post": [{step.name: _examples(step.parameters)}]}]).rstrip())


def minimal_recipe(method: Method) -> dict[str, Any]:
    """A recipe with no more than the method needs, to be filled in."""
    count = min(max(2, method.fewest_models), method.most_models or 2)
    own, wide = _examples(method.per_model()), _examples(method.recipe_wide())
    models = [
        {"model": f"path/to/model-{letter}", **({"parameters": own} if own else {})}
        for letter in "abcdefgh"[:count]
    ]
    recipe: dict[str, Any] = {"merge_method": method.name}
    if method.base == "required":
        recipe["base_model"] = "path/to/base"
    recipe["models"] = models
    if wide:
        recipe["parameters"] = wide
    if method.calibration:
        recipe["calibration"] = {"data": "samples.jsonl"}
    return recipe


def method_json(method: Method) -> dict[str, Any]:
    """One method for programs."""
    return {
        "name": method.name,
        "summary": method.summary,
        "formula": method.formula(),
        "paper": method.paper,
        "base": method.base,
        "fewest_models": method.fewest_models,
        "most_models": method.most_models,
        "random": method.random,
        "recipe": minimal_recipe(method),
        "parameters": _parameters_json(method.parameters),
    }


def step_json(step: PostStep) -> dict[str, Any]:
    """One post-step for programs."""
    return {
        "name": step.name,
        "summary": step.summary,
        "formula": step.formula(),
        "paper": step.paper,
        "parameters": _parameters_json(step.parameters),
    }


def _examples(parameters: Iterable[Parameter]) -> dict[str, Scalar]:
    return {each.name: _EXAMPLE_NUMBER for each in parameters if each.default is None}


def _show_parameters(terminal: Terminal, parameters: Sequence[Parameter]) -> None:
    if parameters:
        terminal.say()
        width = max(len(parameter.name) for parameter in parameters) + 2
        for parameter in parameters:
            terminal.say(f"  {parameter.name:<{width}}{_described(parameter)}")


def _parameters_json(parameters: Iterable[Parameter]) -> list[dict[str, Any]]:
    return [
        {
            "name": parameter.name,
            "help": parameter.help,
            "kind": parameter.kind,
            "default": parameter.default,
            "required": parameter.default is None,
            "per_model": parameter.per_model,
            "low": None if math.isinf(parameter.low) else parameter.low,
            "high": None if math.isinf(parameter.high) else parameter.high,
            "choices": list(parameter.choices),
        }
        for parameter in parameters
    ]


def _models(method: Method) -> str:
    if method.most_models is None:
        return f"{method.fewest_models} or more"
    if method.most_models == method.fewest_models:
        return str(method.fewest_models)
    return f"{method.fewest_models} to {method.most_models}"


def _described(parameter: Parameter) -> str:
    default = "required" if parameter.default is None else f"default {literal(parameter.default)}"
    scope = "for each model" if parameter.per_model else "once"
    return f"{parameter.help} ({_values(parameter)}; {default}; {scope})"


def _values(parameter: Parameter) -> str:
    if parameter.kind == "choice":
        return "true, false or " + ", ".join(parameter.choices)
    if parameter.kind == "word":
        return ", ".join(parameter.choices)
    if parameter.kind == "flag":
        return "true or false"
    low, high = parameter.low, parameter.high
    if math.isinf(low) and math.isinf(high):
        return "number"
    if math.isinf(high):
        return f"at least {low:g}"
    return f"{low:g} to {high:g}"
