"""Merge methods as people and programs read them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from rich.table import Table

from flows.console import Terminal, literal
from merge_core.methods.base import Method
from merge_core.parameters import Parameter


def show_methods(terminal: Terminal, methods: Iterable[Method]) -> None:
    """A table of all methods."""
    table = Table(box=None, pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("what it does")
    table.add_column("base model")
    table.add_column("models", justify="right")
    for method in methods:
        table.add_row(method.name, method.summary, method.base, _models(method))
    terminal.results.print(table)
    terminal.say("\nmore about one: mergeflow methods NAME")


def show_method(terminal: Terminal, method: Method) -> None:
    """One method with its formula, its parameters and its paper."""
    terminal.say(f"{method.name}: {method.summary}", style="bold")
    terminal.say()
    terminal.say(method.formula())
    terminal.say()
    terminal.say(f"base model: {method.base}; models: {_models(method)}")
    if method.paper:
        terminal.say(f"from: {method.paper}")
    if method.parameters:
        terminal.say()
        for parameter in method.parameters:
            terminal.say(f"  {parameter.name:<12}{_described(parameter)}")


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
        "parameters": [
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
            for parameter in method.parameters
        ],
    }


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
    if parameter.kind == "flag":
        return "true or false"
    low, high = parameter.low, parameter.high
    if math.isinf(low) and math.isinf(high):
        return "number"
    if math.isinf(high):
        return f"at least {low:g}"
    return f"{low:g} to {high:g}"
