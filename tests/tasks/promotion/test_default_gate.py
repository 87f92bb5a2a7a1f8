"""Which gate decides: the calibrated one, and the former one where a rule has its keys."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.settings.averaging import AveragePromotion
from flows.settings.pipeline import load_pipeline
from flows.steps.early_checks import check_rule
from tasks.evaluation.suite import load_suite
from tasks.processes.shipped_files import shipped
from tasks.promotion.calibrated_keys import FORMER_KEYS
from tasks.promotion.rule import FORMER_GATE, PromotionRule

_FORMER: dict[str, Any] = {
    "max_regression": 0.02,
    "per_task": {"arc_easy": 0.03},
    "min_gain": 0.1,
    "confidence": 0.9,
    "min_documents": 5,
    "resamples": 500,
    "seed": 3,
}


@pytest.mark.parametrize("rule", [PromotionRule, AveragePromotion])
def test_a_rule_without_keys_is_of_the_calibrated_gate(rule: type[PromotionRule]) -> None:
    assert rule().gate == "calibrated"
    assert rule(on_inconclusive="promote", approve_within="8h").gate == "calibrated"
    assert rule(gate="former").gate == "former"


@pytest.mark.parametrize("key", list(FORMER_KEYS))
def test_a_rule_that_writes_a_former_key_keeps_the_former_gate_and_its_meaning(key: str) -> None:
    rule = PromotionRule.model_validate({key: _FORMER[key]})
    assert rule.gate == "former"
    assert getattr(rule, key) == _FORMER[key]
    again = PromotionRule.model_validate_json(rule.model_dump_json())
    assert again.gate == "former", "as a run's parameters, or a deployment's, have it"
    assert again == rule
    assert "gate" not in rule.model_dump(), "decisions are cached by what a rule always was"


def test_the_former_gate_is_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    suite = load_suite("english-small")
    with caplog.at_level(logging.INFO, "mergeflow"):
        check_rule(PromotionRule(), suite)
        assert not caplog.messages
        check_rule(PromotionRule(max_regression=0.02), suite)
    assert caplog.messages == [FORMER_GATE]


def test_a_pipeline_file_of_before_decides_as_before(tmp_path: Path) -> None:
    """As README of commit 221bab7 had it."""
    recipe = {"merge_method": "linear", "models": [{"model": "./a"}, {"model": "./b"}]}
    values = {
        "name": "mine",
        "recipe": recipe,
        "evaluate": {"suite": "english-small"},
        "promote": {"max_regression": 0.01, "min_gain": 0.0},
        "register": {"model": "mine"},
    }
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump(values))
    assert load_pipeline(path).pipeline.promote == PromotionRule(gate="former")
    del values["promote"]
    path.write_text(yaml.safe_dump(values))
    assert load_pipeline(path).pipeline.promote.gate == "calibrated"


def test_nothing_that_is_shipped_has_a_key_of_the_former_gate() -> None:
    files = [*shipped("configs").rglob("*.yaml"), *shipped("deployments").rglob("*.yaml")]
    assert len(files) > 8
    for path in files:
        found = FORMER_KEYS.keys() & (yaml.safe_load(path.read_text()) or {}).get("promote", {})
        assert not found, path
