"""A search space to start from, as a file that `mergeflow search` takes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from merge_core.files.strict_yaml import dump_yaml
from merge_core.recipes.recipe import Recipe
from tasks.diagnosis.advice import CANCELLED, edge_of
from tasks.diagnosis.diagnosis import Diagnosis

_LEAST, _MOST = 0.1, 1.2
"""Weights to search between, where nothing was evaluated. Task arithmetic of two models of the zoo
is best near 0.5, and a scale of 2.5 ruins it (examples/README.md)."""
_FURTHER = ("dtype", "out_dtype", "tokenizer_source", "tokenizer", "chat_template", "exclude")
_NO_SUITE = "starter"


def starting_search(
    found: Diagnosis, template: Recipe, written: Mapping[str, str], suite: str | None
) -> str:
    """The file: sums of task vectors, TIES beside them where signs conflict, weights up to where
    the basin ends.

    Args:
        template: the recipe that was diagnosed; dtype, tokenizer and exclusions are kept.
        written: each reference as it is to be written from another directory.
        suite: None: one to be replaced.
    """
    document = {
        "name": name_of(found.name),
        "description": f"Begun from a diagnosis of {found.name}.",
        "recipe": _recipe(found, template, written),
        "search": _search(found),
        "evaluate": {"suite": suite or _NO_SUITE},
    }
    head = "# Written by `mergeflow diagnose`. Run it with:  mergeflow search THIS_FILE\n"
    if suite is None:
        head += "# The suite is the form that comes with mergeflow: name your own in its place.\n"
    return head + dump_yaml([document])


def name_of(text: str) -> str:
    """A name that a pipeline may have."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")
    return f"{plain[:60] or 'recipe'}-diagnosed"


def weights_to_try(found: Diagnosis) -> list[float]:
    """The weight of each model in the middle of the search."""
    count = len(found.models)
    return [float(f"{1 / count:.3g}")] * count


def _recipe(found: Diagnosis, template: Recipe, written: Mapping[str, str]) -> dict[str, Any]:
    document = template.model_dump(mode="json", exclude_defaults=True)
    recipe: dict[str, Any] = {
        "merge_method": "task_arithmetic" if found.base else "linear",
        **({"base_model": written[found.base]} if found.base else {}),
        "models": [
            {"model": written[name], "parameters": {"weight": weight}}
            for name, weight in zip(found.models, weights_to_try(found), strict=True)
        ],
    }
    further = {key: document[key] for key in _FURTHER if document.get(key)}
    return recipe | {key: _elsewhere(value, written) for key, value in further.items()}


def _elsewhere(value: Any, written: Mapping[str, str]) -> Any:
    """A part of a recipe with each reference in it as another directory has to write it."""
    if isinstance(value, dict):
        return {key: _elsewhere(item, written) for key, item in value.items()}
    if isinstance(value, list):
        return [_elsewhere(item, written) for item in value]
    return written.get(value, value) if isinstance(value, str) else value


def _search(found: Diagnosis) -> dict[str, Any]:
    space = {
        f"models[{index}].weight": {"from": _LEAST, "to": top}
        for index, top in enumerate(_tops(found))
    }
    methods: list[Any] = []
    clashes = found.weights.clashes.cancelled if found.weights else ()
    if max(clashes, default=0.0) >= CANCELLED:
        methods = ["task_arithmetic", {"ties": {"density": {"from": 0.2, "to": 1.0}}}]
    return {
        "sampler": "tpe",
        "budget": {"trials": 30},
        **({"methods": methods} if methods else {}),
        "space": space,
    }


def _tops(found: Diagnosis) -> Sequence[float]:
    """For each model the largest weight to try: where its basin certainly ends, if that is known;
    less for a task vector that is much longer than the shortest."""
    tops = [_MOST] * len(found.models)
    if found.weights is not None:
        norms = found.weights.profile.overall.norms
        shortest = min((norm for norm in norms if norm), default=0.0)
        tops = [
            max(2 * _LEAST, float(f"{_MOST * shortest / norm:.2g}")) if norm else _MOST
            for norm in norms
        ]
    for curve in found.curves.scales if found.curves else ():
        edge = edge_of(curve)
        if edge is not None and edge > _LEAST:
            tops[curve.models[0]] = edge
    return tops
