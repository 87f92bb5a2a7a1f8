"""A merge plan as people and programs read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from flows.terminal.console import Terminal, add_row, literal, size, table_of
from merge_core.methods.parameter import Scalar
from merge_core.planning.plan import Plan, PlannedTensor
from merge_core.recipes.measurements import measurements
from merge_core.tensors.dtypes import name_of


def show_plan(terminal: Terminal, plan: Plan, *, tensors: bool) -> None:
    """The bytes that are read and written, and the computations between."""
    recipe = plan.recipe
    terminal.say(f"{recipe.merge_method}: {recipe.method.summary}", style="bold")
    for entry in plan.inputs:
        terminal.say(f"  {entry.role:<6}{entry.reference}")
    for measurement, count in Counter(measurements(recipe).values()).items():
        data = measurement.calibration
        terminal.say(
            f"  measures {measurement.statistic} of {count} models on {data.samples} samples of"
            f" {data.data}, when it is merged"
        )
    terminal.say(
        f"  reads {size(plan.input_bytes)}, writes {size(plan.output_bytes)} in"
        f" {len(plan.shards)} file{'s' if len(plan.shards) > 1 else ''}"
    )
    terminal.say(f"  {len(plan.tensors)} tensors, {plan.parameters:,} parameters, {plan.dtype}")
    terminal.say(f"  recipe {recipe.digest}")
    terminal.say()
    terminal.results.print(_tensor_table(plan) if tensors else _settings_table(plan))


def plan_json(plan: Plan, *, tensors: bool) -> dict[str, Any]:
    """A plan for programs."""
    value: dict[str, Any] = {
        "method": plan.recipe.merge_method,
        "recipe_digest": plan.recipe.digest,
        "inputs": [{"reference": i.reference, "role": i.role} for i in plan.inputs],
        "measurements": [
            {
                "reference": reference,
                "statistic": measurement.statistic,
                "calibration": measurement.calibration.model_dump(),
            }
            for reference, measurement in measurements(plan.recipe).items()
        ],
        "parameters": plan.parameters,
        "dtype": plan.dtype,
        "bytes_read": plan.input_bytes,
        "bytes_written": plan.output_bytes,
        "shards": [{"name": shard.name, "bytes": shard.nbytes} for shard in plan.shards],
        "tensors": len(plan.tensors),
    }
    if tensors:
        value["tensors"] = [
            {
                "name": tensor.name,
                "method": tensor.method,
                "dtype": tensor.slot.dtype,
                "shape": list(tensor.slot.shape),
                "shard": plan.shards[tensor.slot.shard].name,
                "offset": tensor.slot.offset,
                "model_parameters": [dict(values) for values in tensor.merged.model_parameters],
                "parameters": dict(tensor.merged.parameters),
            }
            for tensor in plan.tensors
        ]
    return value


def _settings_table(plan: Plan) -> Table:
    """Counts of tensors: one row for each distinct setting."""
    groups: dict[str, list[PlannedTensor]] = {}
    for tensor in plan.tensors:
        groups.setdefault(_settings(tensor), []).append(tensor)
    heads = ("tensors", "for example", "settings")
    table = table_of(*heads, right=("tensors",), wraps=("tensors", "settings"))
    for settings, members in groups.items():
        add_row(table, len(members), members[0].name, settings)
    return table


def _tensor_table(plan: Plan) -> Table:
    table = table_of("tensor", "shape", "stored as", "file", "settings", wraps=("settings",))
    for tensor in plan.tensors:
        slot = tensor.slot
        add_row(
            table,
            tensor.name,
            "x".join(map(str, slot.shape)) or "scalar",
            name_of(slot.dtype),
            plan.shards[slot.shard].name,
            _settings(tensor),
        )
    return table


def _settings(tensor: PlannedTensor) -> str:
    """`weight 0.5, 0.5; normalize false`: per model in the order of the models, then overall."""
    per_model = tensor.merged.model_parameters
    parts = [
        f"{name} " + ", ".join(literal(values[name]) for values in per_model)
        for name in (per_model[0] if per_model else {})
    ]
    parts += _overall(tensor.merged.parameters)
    for step, settings in tensor.merged.post:
        parts.append(" ".join([f"then {step}", *_overall(settings)]))
    return "; ".join([tensor.method, *parts])


def _overall(parameters: Mapping[str, Scalar]) -> list[str]:
    return [f"{name} {literal(value)}" for name, value in parameters.items()]
