"""The keys of the calibrated gate. A rule has these, or those of the former one."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

FORMER_KEYS = {
    "max_regression": "guard_margin",
    "per_task": "guard_margin",
    "min_gain": "exceed",
    "confidence": "alpha",
    "min_documents": None,
    "resamples": None,
    "seed": None,
}
"""Keys that the calibrated gate does not have, each with the one that does its work there."""
CALIBRATED_KEYS = ("exceed", "guard_margin", "widest_margin", "alpha", "keep_of_experts")


class CalibratedKeys(BaseModel):
    """Which gate decides, and what the calibrated one asks for."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    gate: Literal["former", "calibrated"] = Field(
        default="former",
        title="Gate",
        description="Which statistics decide. former: a bootstrap, with the keys above. calibrated:"
        " promotes a merge that is no better in at most 2.5 % of cases, with the keys below and"
        " none of max_regression, per_task, min_gain, confidence, min_documents, resamples, seed.",
        json_schema_extra={"position": 11},
    )
    exceed: float | None = Field(
        default=None,
        ge=-10.0,
        le=10.0,
        title="Calibrated gate: gain to exceed",
        description="The mean change over the tasks has to be certainly above this, in units. A"
        " unit is how far the baseline's own documents lie apart; 0.02 are about one point of"
        " accuracy. Empty: 0, certainly better.",
        json_schema_extra={"position": 12},
    )
    guard_margin: float | None = Field(
        default=None,
        gt=0.0,
        le=10.0,
        title="Calibrated gate: guard margin",
        description="No task may have lost this much, in units. Empty: 0.1, about five points of"
        " accuracy.",
        json_schema_extra={"position": 13},
    )
    widest_margin: float | None = Field(
        default=None,
        gt=0.0,
        le=10.0,
        title="Calibrated gate: widest margin",
        description="How far the guard margin is widened for a task whose documents cannot tell"
        " less, as the base and the experts show. Empty: twice the guard margin.",
        json_schema_extra={"position": 14},
    )
    alpha: float | None = Field(
        default=None,
        ge=0.0001,
        le=0.25,
        title="Calibrated gate: alpha",
        description="How often a merge that is no better may be promoted by chance. Empty: 0.025.",
        json_schema_extra={"position": 15},
    )
    keep_of_experts: float | None = Field(
        default=None,
        ge=0.0,
        lt=1.0,
        title="Calibrated gate: kept of the experts",
        description="Share of each expert's certain gain on a task that the merge may not certainly"
        " miss. Empty: 0.8. 0: what was kept is told, and decides nothing.",
        json_schema_extra={"position": 16},
    )

    @model_validator(mode="after")
    def _keys_of_one_gate(self) -> Self:
        if self.gate == "former":
            strange = [name for name in CALIBRATED_KEYS if getattr(self, name) is not None]
            if strange:
                raise ValueError(
                    f"{strange[0]} is a key of the calibrated gate; write `gate: calibrated` too,"
                    " or leave it out"
                )
            return self
        former = [name for name in FORMER_KEYS if name in self.model_fields_set]
        if former:
            other = FORMER_KEYS[former[0]]
            instead = f"write {other} in its place, or leave it out" if other else "leave it out"
            raise ValueError(f"{former[0]} is no key of the calibrated gate; {instead}")
        if self.widest_margin is not None and self.widest_margin < (self.guard_margin or 0.1):
            raise ValueError(
                f"widest_margin is {self.widest_margin:g}, below the guard margin of"
                f" {self.guard_margin or 0.1:g}; write at least as much, or leave it out"
            )
        return self

    @model_serializer(mode="wrap")
    def _keys_of_this_gate(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is written can be read again, and a rule of the former gate is what it always was:
        decisions are cached by it."""
        values: dict[str, Any] = handler(self)
        if self.gate == "former":
            strange = {"gate", *CALIBRATED_KEYS}
        else:
            strange = {*FORMER_KEYS, *(n for n in CALIBRATED_KEYS if getattr(self, n) is None)}
        return {name: value for name, value in values.items() if name not in strange}
