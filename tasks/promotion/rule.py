"""The rule of a pipeline: when a merged checkpoint may be promoted. `decision` follows it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from merge_core.files.strict_yaml import load_yaml, validated
from tasks.promotion.calibrated_keys import CalibratedKeys
from tasks.units import DURATION

AFTERWARDS = {"approve_within", "fall_back_to"}
"""Keys of the rule that say what becomes of a decision, and change nothing in it."""


class PromotionRule(CalibratedKeys):
    """When a merged checkpoint may be promoted."""

    baseline: Literal["base"] = Field(
        default="base",
        title="Baseline",
        description="What the merged checkpoint is compared with: the recipe's base model.",
        json_schema_extra={"position": 0},
    )
    max_regression: float = Field(
        default=0.01,
        ge=0.0,
        title="Largest regression allowed",
        description="How much worse any one task may get, in the metric's own unit: 0.01 is one "
        "point of accuracy, or 0.01 bits per byte.",
        json_schema_extra={"position": 1},
    )
    per_task: dict[str, Annotated[float, Field(ge=0.0)]] = Field(
        default_factory=dict,
        title="Largest regression for single tasks",
        description='Overrides by task name, for example {"hellaswag": 0.03}.',
        json_schema_extra={"position": 2},
    )
    min_gain: float = Field(
        default=0.0,
        ge=-1.0,
        le=100.0,
        title="Smallest gain required",
        description="Mean over tasks of the improvement relative to the baseline's score: 0.01 "
        "asks for one percent better on average. 0 asks for no loss on average.",
        json_schema_extra={"position": 3},
    )
    confidence: float = Field(
        default=0.95,
        ge=0.5,
        le=0.999,
        title="Confidence",
        description="Confidence of every interval the decision rests on.",
        json_schema_extra={"position": 4},
    )
    min_documents: int = Field(
        default=20,
        ge=1,
        title="Fewest documents",
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
        title="Bootstrap resamples",
        description="More give smoother interval ends; 2000 are enough for 95 %.",
        json_schema_extra={"position": 7},
    )
    seed: int = Field(
        default=1234,
        ge=0,
        lt=2**32,
        title="Seed",
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


def read_rule(path: Path) -> PromotionRule:
    """Read a rule from a file of its own, or from below `promote` in a pipeline's.

    Raises:
        RecipeError: unreadable, or not a rule.
    """
    values = load_yaml(path)
    return validated(PromotionRule, values.get("promote", values), str(path))
