"""The rule in the forms: every key, with its help, and what was kept of older forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.settings.merge_form import MergeForm, pipeline_of
from flows.settings.promotion_form import PromotionForm
from merge_core.errors import RecipeError
from merge_core.homes.home import Home
from tasks.promotion.calibrated_keys import CALIBRATED_KEYS
from tasks.promotion.rule import PromotionRule

SCHEMA = PromotionForm.model_json_schema()
ROWS = [{"model": each, "weight": 0.5} for each in ("./a", "./b")]
FILLED = MergeForm.model_validate({"method": "linear", "models": ROWS}).read(Home(Path("/h")))


def rule_of(promote: dict[str, Any], registered_model: str = "mine") -> PromotionRule:
    """What a form stands for, by the way that its run takes."""
    form = PromotionForm.model_validate(promote)
    return pipeline_of(FILLED, "n", "english-small", form, registered_model, "cpu").promote


def test_every_key_of_the_rule_is_in_the_form_with_help_and_one_field() -> None:
    asked = SCHEMA["properties"]
    later = {"baseline", "gate", "on_inconclusive", "approve_within", "fall_back_to"}
    assert {*CALIBRATED_KEYS, *later} <= set(asked)
    for name, field in asked.items():
        assert field["title"], name
        assert len(field["description"]) > 40, name
        assert "anyOf" not in field, f"{name} would be drawn as tabs"
    places = [field["position"] for field in asked.values()]
    assert sorted(places) == list(range(len(asked)))


def test_an_empty_form_is_the_default_rule() -> None:
    assert rule_of({}) == PromotionRule()


def test_what_is_filled_in_arrives_in_the_rule() -> None:
    filled = {
        "baseline": ["champion", "base"],
        "exceed": 0.02,
        "guard_margin": 0.2,
        "widest_margin": 0.3,
        "alpha": 0.01,
        "keep_of_experts": 0.0,
        "must_hold": ["safety"],
        "odd_answers": 0.0,
        "answer_length": 3.0,
        "nights": 7,
        "plan_must_hold": True,
    }
    rule = rule_of(filled)
    assert rule == PromotionRule(**filled)
    assert rule.must_hold == {"safety": 0.0}
    assert rule.keep_of_experts == rule.odd_answers == 0.0, "0 is no empty field"


@pytest.mark.parametrize(
    "kept",
    [
        {"max_regression": 0.02, "min_gain": -0.1},
        {"max_regression": 0.0, "confidence": 0.9, "on_inconclusive": "promote"},
        {"gate": "former"},
    ],
)
def test_parameters_that_an_older_form_kept_go_on_deciding_as_they_did(kept: Any) -> None:
    assert rule_of(kept) == PromotionRule(**kept)
    assert rule_of(kept).gate == "former"


@pytest.mark.parametrize(
    ("promote", "said"),
    [
        ({"baseline": ["chmpion"]}, "promote: baseline: .*did you mean 'champion'"),
        ({"gate": "calibrated", "min_gain": 0.1}, "min_gain is no key of the calibrated gate"),
    ],
)
def test_what_a_schema_cannot_know_is_told_when_the_run_starts(promote: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        rule_of(promote)


def test_the_champion_needs_a_registered_model() -> None:
    with pytest.raises(RecipeError, match=r"promote.baseline: the champion is a version of a"):
        rule_of({"baseline": ["champion"]}, registered_model="")
