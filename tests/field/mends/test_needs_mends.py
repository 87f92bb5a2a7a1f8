"""Mends of what a suite needs from outside, told before any weight is loaded or merged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.steps.early_checks import check_rule
from tasks.evaluation.needs import check_needs
from tasks.evaluation.suite import load_suite
from tasks.promotion.rule import PromotionRule
from tests.field.mends.situations import Situation, situations
from tests.support.followed_mends import Advice, Shell, Step
from tests.support.small_suite import write_suite


def settings(here: Path, **values: Any) -> None:
    """Write a suite's settings."""
    file = here / "suite/suite.yaml"
    content = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(content | {"settings": values}))


def task(here: Path, name: str, **values: Any) -> None:
    """Change the file of one of the suite's tasks."""
    file = here / f"suite/tasks/{name}.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | values))


def checked(here: Path) -> None:
    """See whether the suite can be evaluated here, with the model."""
    check_needs(load_suite(here / "suite"), here / "model")


def a_template_that_a_base_model_lacks(here: Path) -> Iterator[Step]:
    settings(here, apply_chat_template=True)
    yield (checked, here)
    settings(here)
    yield (checked, here)


def a_context_that_is_too_long(here: Path) -> Iterator[Step]:
    settings(here, max_length=65)
    yield (checked, here)
    settings(here, max_length=64)
    yield (checked, here)


def answers_that_fill_the_context(here: Path) -> Iterator[Step]:
    settings(here, generation={"max_gen_toks": 64})
    yield (checked, here)
    settings(here, generation={"max_gen_toks": 32})
    yield (checked, here)


def data_on_a_hub_out_of_reach(here: Path) -> Iterator[Step]:
    kept = yaml.safe_load((here / "suite/tasks/quiz.yaml").read_text())
    task(here, "quiz", dataset_path="someone/quiz", dataset_kwargs={})
    yield (checked, here)
    beside = {key: kept[key] for key in ("dataset_path", "dataset_kwargs")}
    task(here, "quiz", **beside)
    yield (checked, here)


def repeated_answers_that_are_looked_at(here: Path) -> Iterator[Step]:
    settings(here, generation={"temperature": 0.7}, repeats=4)
    rule = PromotionRule(looks=5)
    yield (lambda: check_rule(rule, load_suite(here / "suite")),)
    settings(here, generation={"temperature": 0.7})
    yield (lambda: check_rule(rule, load_suite(here / "suite")),)


def a_half_of_a_suite_that_has_none(here: Path) -> Iterator[Step]:
    yield (load_suite, f"{here / 'suite'}#search")
    file = here / "suite/suite.yaml"
    file.write_text(file.read_text() + "split: {search: 0.5}\n")
    yield (load_suite, f"{here / 'suite'}#search")


@pytest.fixture
def place(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite beside a model that has a context of 64 tokens, and no Hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(here / "prepared"))
    write_suite(here / "suite")
    (here / "model").mkdir()
    (here / "model/config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    return here


@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_need(situation: Situation, place: Path, mergeflow: Shell, advice: Advice) -> None:
    advice.follow(mergeflow, situation(place))


def test_code_of_several_tasks(place: Path, advice: Advice) -> None:
    """What is to be written is copied from the message, and forgets no task that stood there."""
    for name in ("bits", "quiz"):
        task(place, name, unsafe_code=True)
    for _ in range(2):
        said = advice.refused(checked, place)
        settings(place, **yaml.safe_load(said.split("`")[1]))
    advice.helped(checked, place)
    assert load_suite(place / "suite").settings.run_code == ("bits", "quiz")
