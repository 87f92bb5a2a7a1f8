"""The keys of the calibrated gate. A rule has these, or those of the former one."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
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
NIGHTS = 60
"""How many runs share alpha where a rule names the champion and a baseline that stays, and says
nothing of `nights`."""


class CalibratedKeys(BaseModel):
    """Which gate decides, and what the calibrated one asks for."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    gate: Literal["calibrated", "former"] = Field(
        default="calibrated",
        title="Gate",
        description="Which statistics decide. calibrated: promotes a merge that is no better in at"
        " most 2.5 % of cases. former: a bootstrap with max_regression, per_task, min_gain,"
        " confidence, min_documents, resamples, seed; it decides wherever one of these is written.",
        json_schema_extra={"position": 11},
    )
    exceed: float | None = Field(
        default=None,
        ge=-10.0,
        le=10.0,
        title="Gain to exceed",
        description="The mean change over the tasks has to be certainly above this, in units. A"
        " unit is how far the baseline's own documents lie apart; 0.02 are about one point of"
        " accuracy. Empty: 0, certainly better.",
        json_schema_extra={"position": 12},
    )
    guard_margin: float | None = Field(
        default=None,
        gt=0.0,
        le=10.0,
        title="Guard margin",
        description="No task may have lost this much, in units. Empty: 0.1, about five points of"
        " accuracy.",
        json_schema_extra={"position": 13},
    )
    widest_margin: float | None = Field(
        default=None,
        gt=0.0,
        le=10.0,
        title="Widest margin",
        description="The widest that a task's margin may become where its documents are too few to"
        " show the guard margin. How many are needed is estimated from the base and the"
        " experts. Empty: twice the guard margin.",
        json_schema_extra={"position": 14},
    )
    alpha: float | None = Field(
        default=None,
        ge=0.0001,
        le=0.25,
        title="Alpha",
        description="How often a merge that is no better may be promoted by chance. Empty: 0.025.",
        json_schema_extra={"position": 15},
    )
    keep_of_experts: float | None = Field(
        default=None,
        ge=0.0,
        lt=1.0,
        title="Kept of the experts",
        description="Where an expert is surely better on a task, the merge must keep this share of"
        " its gain; it is refused if it surely keeps less. Empty: 0.8 for merges, 0 for"
        " averages. 0: what was kept is told, and decides nothing.",
        json_schema_extra={"position": 16},
    )
    must_hold: dict[str, Annotated[float, Field(ge=0.0, le=10.0)]] | None = Field(
        default=None,
        title="Tasks that must hold",
        description="Tasks, of safety say, whose score may not be lower than the baseline's at all:"
        " [safety]. Or each with a margin of its own, in units, which is never widened:"
        " {safety: 0.05}.",
        json_schema_extra={"position": 17},
    )
    odd_answers: float | None = Field(
        default=None,
        ge=0.0,
        le=1.0,
        title="Odd answers",
        description="By how large a share of a task's documents empty answers, answers cut off at"
        " the token limit and answers that repeat themselves may each become more frequent. Empty:"
        " 0.05, five of a hundred. 1: any number.",
        json_schema_extra={"position": 18},
    )
    answer_length: float | None = Field(
        default=None,
        ge=1.0,
        le=1000.0,
        title="Length of answers",
        description="How many times longer, or shorter, a task's answers may become on average."
        " Empty: 2.",
        json_schema_extra={"position": 19},
    )
    nights: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        title="Nights",
        description="How many runs on the same documents share alpha against the baselines other"
        " than the champion. Empty: 60 where the champion is one of several baselines, else 1.",
        json_schema_extra={"position": 20},
    )
    looks: int | None = Field(
        default=None,
        ge=1,
        le=20,
        title="Looks",
        description="How often the evaluation of the merged checkpoint may be looked at, the end"
        " included: it stops as soon as the rule knows enough. 5 is a good number; a clearly worse"
        " merge costs a quarter then. Empty: 1, only at the end.",
        json_schema_extra={"position": 22},
    )
    plan_must_hold: bool | None = Field(
        default=None,
        title="The plan must hold",
        description="End the run before the merge where the documents cannot show the guard margins"
        " or where margins had to be widened. Empty: only warn.",
        json_schema_extra={"position": 21},
    )

    @field_validator("must_hold", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        """A list of names: each without any loss."""
        if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
            return dict.fromkeys(value, 0.0)
        return value

    @model_validator(mode="before")
    @classmethod
    def _former_where_its_keys_are_written(cls, values: Any) -> Any:
        """A rule that was written before there was a choice keeps its meaning."""
        if isinstance(values, dict) and values.get("gate") is None:
            rest = {key: value for key, value in values.items() if key != "gate"}
            return rest | {"gate": "former" if FORMER_KEYS.keys() & rest.keys() else "calibrated"}
        return values

    @model_validator(mode="after")
    def _keys_of_one_gate(self) -> Self:
        if self.gate == "former":
            strange = [name for name in CALIBRATED_KEYS if getattr(self, name) is not None]
            if strange:
                written = [name for name in FORMER_KEYS if name in self.model_fields_set]
                mend = (
                    f"leave out {', '.join(written)}, of the former gate, or this"
                    if written
                    else "write `gate: calibrated`, or leave it out"
                )
                raise ValueError(f"{strange[0]} is a key of the calibrated gate; {mend}")
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
        """Write the keys of this gate alone, so that what is written can be read again. A rule of
        the former gate keeps the form by which its decisions are cached."""
        values: dict[str, Any] = handler(self)
        if self.gate == "former":
            strange = {"gate", *CALIBRATED_KEYS}
        else:
            strange = {*FORMER_KEYS, *(n for n in CALIBRATED_KEYS if getattr(self, n) is None)}
        return {name: value for name, value in values.items() if name not in strange}


CALIBRATED_KEYS = tuple(name for name in CalibratedKeys.model_fields if name != "gate")
