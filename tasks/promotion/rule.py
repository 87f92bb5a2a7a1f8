"""The rule of a pipeline: when a merged checkpoint may be promoted. `decision` follows it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from merge_core.files.strict_yaml import load_yaml, validated
from tasks.promotion.baselines import OF_A_MERGE, read_baselines
from tasks.promotion.calibrated_keys import NIGHTS, CalibratedKeys
from tasks.units import DURATION

AFTERWARDS = {"approve_within", "fall_back_to"}
"""Keys of the rule that say what becomes of a decision, and change nothing in it."""


FORMER_GATE = (
    "the former gate decides, as this rule has its keys (max_regression, per_task, min_gain,"
    " confidence, min_documents, resamples, seed) or names it; without them the calibrated one does"
)
"""What is said where the former gate decides."""


class PromotionRule(CalibratedKeys):
    """When a merged checkpoint may be promoted."""

    names: ClassVar[tuple[str, ...]] = OF_A_MERGE
    """What a baseline may be called. Any other text is a reference."""

    baseline: str | tuple[str, ...] = Field(
        default="base",
        title="Baseline",
        description="What the merged checkpoint has to beat: base, the recipe's base model;"
        " champion, the version that serves (the base as long as there is none); best_expert, the"
        " best of the merged models; or a checkpoint of your own. Of several it has to beat each,"
        " and falls back to the first.",
        json_schema_extra={"position": 0},
    )
    max_regression: float = Field(
        default=0.01,
        ge=0.0,
        title="Former gate: largest regression allowed",
        description="How much worse any one task may get, in the metric's own unit: 0.01 is one "
        "point of accuracy, or 0.01 bits per byte.",
        json_schema_extra={"position": 1},
    )
    per_task: dict[str, Annotated[float, Field(ge=0.0)]] = Field(
        default_factory=dict,
        title="Former gate: largest regression for single tasks",
        description='Overrides by task name, for example {"hellaswag": 0.03}.',
        json_schema_extra={"position": 2},
    )
    min_gain: float = Field(
        default=0.0,
        ge=-1.0,
        le=100.0,
        title="Former gate: smallest gain required",
        description="Mean over tasks of the improvement relative to the baseline's score: 0.01 "
        "asks for one percent better on average. 0 asks for no loss on average.",
        json_schema_extra={"position": 3},
    )
    confidence: float = Field(
        default=0.95,
        ge=0.5,
        le=0.999,
        title="Former gate: confidence",
        description="Confidence of every interval the decision rests on.",
        json_schema_extra={"position": 4},
    )
    min_documents: int = Field(
        default=20,
        ge=1,
        title="Former gate: fewest documents",
        description="A task with fewer documents than this is never called held or regressed.",
        json_schema_extra={"position": 5},
    )
    on_inconclusive: Literal["fall_back", "promote"] = Field(
        default="fall_back",
        title="When the evaluation cannot tell",
        description="Keep the baseline (fall_back) or take the merged checkpoint (promote).",
        json_schema_extra={"position": 6},
    )
    resamples: int = Field(
        default=2000,
        ge=200,
        le=100_000,
        title="Former gate: bootstrap resamples",
        description="More give smoother interval ends; 2000 are enough for 95 %.",
        json_schema_extra={"position": 7},
    )
    seed: int = Field(
        default=1234,
        ge=0,
        lt=2**32,
        title="Former gate: seed",
        description="Same reports, same rule, same seed: same decision.",
        json_schema_extra={"position": 8},
    )
    fall_back_to: Literal["champion", "base"] = Field(
        default="champion",
        title="Whom the alias falls back to",
        description="Where the alias is when nothing is promoted. champion: it stays with a "
        "version that passed against the same baseline and suite, or that a person approved. base: "
        "the baseline gets it in any case.",
        json_schema_extra={"position": 10},
    )
    approve_within: str = Field(
        default="",
        pattern=rf"^({DURATION})?$",
        title="Approval within",
        description="How long to wait for a person who approves what this rule promotes: 30m, 8h, "
        "2d. Without approval nothing is promoted. Empty: nobody is asked.",
        json_schema_extra={"position": 9},
    )

    @field_validator("baseline", mode="before")
    @classmethod
    def _known_baselines(cls, value: Any) -> Any:
        return read_baselines(value, cls.names)

    @model_validator(mode="after")
    def _several_need_the_calibrated_gate(self) -> Self:
        if self.gate == "former" and len(self.baselines) > 1:
            raise ValueError(
                "several baselines are for the calibrated gate, which shares its alpha among"
                " nights; name one, or leave out the keys of the former gate"
            )
        return self

    @property
    def baselines(self) -> tuple[str, ...]:
        """Names and references, the one that the run falls back to first."""
        return (self.baseline,) if isinstance(self.baseline, str) else self.baseline

    @property
    def shared_nights(self) -> int:
        """How many runs share alpha against what is not the champion."""
        is_recurring = "champion" in self.baselines and len(self.baselines) > 1
        return self.nights or (NIGHTS if is_recurring else 1)


def read_rule(path: Path) -> PromotionRule:
    """Read a rule from a file of its own, or from below `promote` in a pipeline's.

    Raises:
        RecipeError: unreadable, or not a rule.
    """
    values = load_yaml(path)
    return validated(PromotionRule, values.get("promote", values), str(path))
