"""The promotion rule as a part of every form in Prefect's UI: the rule's own fields and help.

A number that is left empty is left out, not sent as null, so that the page draws one field for it.
"""

from __future__ import annotations

import math
from typing import Any, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    create_model,
    model_serializer,
)

from flows.settings.sentences import Schema, expect, in_range, only, without_ends
from tasks.promotion.calibrated_keys import CALIBRATED_KEYS
from tasks.promotion.rule import PromotionRule
from tasks.units import DURATION

_DURATION = "a duration such as 30m, 8h or 2d, or nothing"
_KINDS = {name: get_args(PromotionRule.model_fields[name].annotation) for name in CALIBRATED_KEYS}
_NUMBERS = tuple(name for name, kinds in _KINDS.items() if {int, float} & {*kinds})
_SWITCHES = tuple(name for name, kinds in _KINDS.items() if bool in kinds)
"""Keys of the calibrated gate that are a number, or yes or no: each is in the form by itself."""
_CHOICES = ("on_inconclusive", "approve_within", "fall_back_to")
_FORMER = ("max_regression", "min_gain", "confidence")
"""Keys of the former gate that forms have always had; parameters that are kept may hold them."""
_ORDER = ("baseline", *_NUMBERS, "must_hold", *_SWITCHES, *_CHOICES, "gate", *_FORMER)


class _Filled(BaseModel):
    """A filled rule: what was left empty is not in it."""

    @model_serializer(mode="wrap")
    def _without_what_is_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {
            name: value
            for name, value in handler(self).items()
            if value is not None and value is not False and value not in ((), [])
        }


def _number(name: str) -> tuple[Any, Any]:
    """A number of the rule that may be left empty."""
    own = PromotionRule.model_fields[name]
    is_whole = int in get_args(own.annotation)
    kind = "integer" if is_whole else "number"
    bounds = {type(each).__name__.lower(): each for each in own.metadata}
    low = next((getattr(bounds[key], key) for key in ("ge", "gt") if key in bounds), -math.inf)
    high = next((getattr(bounds[key], key) for key in ("le", "lt") if key in bounds), math.inf)

    def shape(schema: Schema) -> None:
        for key in ("default", "anyOf"):
            schema.pop(key, None)
        ends = low if "gt" in bounds else None, high if "lt" in bounds else None
        said = without_ends(*ends, in_range(low, high, own.description or ""))
        schema.update(type=kind, position=_ORDER.index(name), **said)

    constraint = {
        key: getattr(bounds[key], key) for key in ("ge", "gt", "le", "lt") if key in bounds
    }
    annotation: Any = (int if is_whole else float) | None
    said = own.description or ""
    if name in _FORMER:
        said = f"{said} Only where the gate is the former one; empty: {own.default}."
    return annotation, Field(
        default=None, title=own.title, description=said, json_schema_extra=shape, **constraint
    )


def _choice(name: str) -> tuple[Any, Any]:
    own = PromotionRule.model_fields[name]

    def shape(schema: Schema) -> None:
        schema["position"] = _ORDER.index(name)
        if schema.pop("pattern", None):
            schema.update(expect(_DURATION, {"pattern": f"^({DURATION})?$"}))

    return own.annotation, Field(
        default=own.default,
        title=own.title,
        description=own.description,
        json_schema_extra=shape,
        pattern=rf"^({DURATION})?$" if name == "approve_within" else None,
    )


def _empty(why: str) -> Schema:
    """A schema that takes nothing, and whose error says why."""
    return {"if": {"not": {"enum": [None]}}, "then": {"const": why}}


def _with_rules(schema: Schema) -> None:
    former = _empty("nothing here: only the former gate takes it")
    calibrated = _empty("nothing here: only the calibrated gate takes it")
    is_gate: dict[str, Any] = {"required": ["gate"], "properties": {"gate": {"const": ""}}}
    schema["allOf"] = [
        {
            "if": is_gate | {"properties": {"gate": {"const": "calibrated"}}},
            "then": {"properties": dict.fromkeys(_FORMER, former)},
        },
        {
            "if": is_gate | {"properties": {"gate": {"const": "former"}}},
            "then": {"properties": dict.fromkeys(_NUMBERS, calibrated)},
        },
    ]


def _described(name: str, more: str = "") -> dict[str, Any]:
    own = PromotionRule.model_fields[name]
    return {"title": own.title, "description": f"{own.description}{more}"}


def _switch(name: str) -> tuple[Any, Any]:
    extra: Schema = {"position": _ORDER.index(name)}
    return bool, Field(default=False, **_described(name), json_schema_extra=extra)


def _gate(schema: Schema) -> None:
    for key in ("default", "anyOf"):
        schema.pop(key, None)
    schema.update(position=_ORDER.index("gate"), **only(("calibrated", "former")), type="string")


_fields: dict[str, Any] = {
    "baseline": (
        tuple[str, ...],
        Field(
            default=("base",),
            **_described("baseline", " One row each."),
            json_schema_extra={
                "position": 0,
                **expect("at least one baseline, such as base", {"minItems": 1}),
            },
        ),
    ),
    **{name: _number(name) for name in (*_NUMBERS, *_FORMER)},
    "must_hold": (
        tuple[str, ...],
        Field(
            default=(),
            title="Tasks that must hold",
            description="Names of tasks, of safety say, whose score may not be lower than the"
            " baseline's at all. One row each.",
            json_schema_extra={"position": _ORDER.index("must_hold")},
        ),
    ),
    **{name: _switch(name) for name in _SWITCHES},
    **{name: _choice(name) for name in _CHOICES},
    "gate": (
        str | None,
        Field(default=None, **_described("gate", " Empty: calibrated."), json_schema_extra=_gate),
    ),
}
PromotionForm = create_model(
    "PromotionForm",
    __base__=_Filled,
    __doc__="The rule that the merged checkpoint has to pass; else the base is kept.",
    **{name: _fields[name] for name in sorted(_fields, key=_ORDER.index)},
)
"""The promotion rule as a form asks for it."""
PromotionForm.model_config = ConfigDict(
    frozen=True, extra="forbid", title="Promotion rule", json_schema_extra=_with_rules
)
PromotionForm.model_rebuild(force=True)
