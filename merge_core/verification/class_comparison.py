"""Whether two configs are of one architecture: by model type, by class, and by their tensors.

A class's name in config.json can be wrong in one file: trainers write their wrapper's name, and
some write none. Tensors that agree in names and shapes show which it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from merge_core.findings import Finding, printable, some
from merge_core.tensors.wrapper_names import class_names, names_a_wrapper

_PLACE = "config.json: architectures"


def architecture_of(config: Mapping[str, Any]) -> str:
    """`LlamaForCausalLM (llama)`, as far as config.json says it."""
    names = config.get("architectures")
    named = some(sorted(map(printable, names))) if isinstance(names, list) and names else None
    kind = config.get("model_type")
    if named and kind:
        return f"{named} ({printable(kind)})"
    return named or (printable(kind) if kind else "unknown")


def wrapper_findings(name: str, config: Mapping[str, Any]) -> list[Finding]:
    """A warning of a wrapper's name in the place of a class's."""
    if not names_a_wrapper(config):
        return []
    right = class_names(config)
    said = architecture_of({"architectures": config["architectures"]})
    mend = (
        f"write {_entry(right)} into its config.json"
        if right
        else 'write the class of the model into its config.json, as "architectures"'
    )
    return [
        Finding(
            severity="warning",
            code="class-is-a-wrapper",
            subject=name,
            message=f"config.json names {said} as its class, which is a wrapper that training put"
            " around the model" + ("; the result goes without it" if right else ""),
            mend=mend,
            where=_PLACE,
        )
    ]


def class_findings(
    base: tuple[str, Mapping[str, Any]],
    model: tuple[str, Mapping[str, Any]],
    *,
    fit: bool,
    heads_excluded: bool,
    exclude: str | None,
) -> list[Finding]:
    """An error for another architecture, a warning where only a name in a file says so.

    Args:
        base: its name and its config.
        model: its name and its config.
        fit: their tensors have the same names and shapes, but for what the recipe excludes.
        heads_excluded: it excludes a head.
        exclude: what to write into the recipe so that they fit, if there is such a line.
    """
    (base_name, base_config), (name, config) = base, model
    ours, theirs = class_names(config), class_names(base_config)
    of_one_type = config.get("model_type") == base_config.get("model_type")
    if of_one_type and sorted(ours) == sorted(theirs):
        return []
    said = f"it is a {architecture_of(config)}, {base_name} is a {architecture_of(base_config)}"
    if of_one_type and not (ours and theirs):
        return _unnamed(base, model) if fit else []
    if of_one_type and fit and heads_excluded:
        return [
            Finding(
                severity="warning",
                code="architecture-differs",
                subject=name,
                message=f"{said}; without what the recipe excludes they have the same tensors",
                mend="nothing, if the excluded head is all that differs; the result is a"
                f" {some(map(printable, theirs))}",
                where=_PLACE,
            )
        ]
    mend = (
        "only models of one architecture can be merged: leave this one out, or name the base it was"
        " made from"
    )
    if of_one_type and fit:
        mend = (
            "their tensors have the same names and shapes: if it is the same kind of model and the"
            " name in one of the files is wrong, correct `architectures` in that config.json; if"
            " the two classes are really meant, leave this one out"
        )
    elif of_one_type and exclude:
        mend = f"to merge all but what only one of them has, {exclude} in the recipe"
    return [
        Finding(
            severity="error",
            code="architecture-differs",
            subject=name,
            message=said,
            mend=mend,
            where=_PLACE,
        )
    ]


def with_class_of(
    config: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """A donor's config with its model's class: without a wrapper's name, and where it names none,
    with the class that all others of its model type name.

    Args:
        others: configs of the models that it is merged with, by reference.
    """
    result = dict(config)
    right = class_names(config)
    if not right:
        kind = config.get("model_type")
        named = {
            class_names(each)
            for each in others.values()
            if kind is not None and each.get("model_type") == kind
        } - {()}
        right = next(iter(named)) if len(named) == 1 else ()
    if right and list(right) != config.get("architectures"):
        result["architectures"] = list(right)
    return result


def _unnamed(
    base: tuple[str, Mapping[str, Any]], model: tuple[str, Mapping[str, Any]]
) -> list[Finding]:
    (name, _), (_, config) = (model, base) if not class_names(model[1]) else (base, model)
    right = class_names(config)
    return [
        Finding(
            severity="warning",
            code="class-unnamed",
            subject=model[0],
            message=f"config.json of {name} names no class; the tensors are those of a"
            f" {some(map(printable, right))}, which the result says it is",
            mend=f"write {_entry(right)} into config.json of {name}",
            where=_PLACE,
        )
    ]


def _entry(names: tuple[str, ...]) -> str:
    return '`"architectures": [' + ", ".join(f'"{printable(name)}"' for name in names) + "]`"
