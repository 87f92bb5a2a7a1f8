"""Mends of models that do not belong together: strangers, doubles, another base."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.field.mends.situations import (
    VERIFY,
    Situation,
    config,
    fine_tune,
    on_base,
    recipe,
    replaced,
    situations,
    tensors_of,
)
from tests.support.checkpoints import write_checkpoint
from tests.support.followed_mends import Advice, Shell, Step

pytestmark = pytest.mark.slow  # `make field`


def the_same_model_twice(here: Path) -> Iterator[Step]:
    shutil.rmtree(here / "a")
    shutil.copytree(here / "b", here / "a")
    yield VERIFY
    recipe(here, models=[{"model": "./b"}, {"model": "./base"}])
    yield VERIFY


def the_base_as_a_fine_tune(here: Path) -> Iterator[Step]:
    shutil.rmtree(here / "a")
    shutil.copytree(here / "base", here / "a")
    on_base(here)
    yield VERIFY
    on_base(here, "./b")
    yield VERIFY


def strangers(here: Path) -> Iterator[Step]:
    replaced(here, "a", tensors_of(9))
    on_base(here)
    yield VERIFY
    on_base(here, allow_unrelated=True)
    yield VERIFY


def strangers_without_a_base(here: Path) -> Iterator[Step]:
    replaced(here, "a", tensors_of(9))
    yield VERIFY
    recipe(here, models=[{"model": "./base"}, {"model": "./b"}])
    yield VERIFY


def a_stranger_whose_card_names_its_base(here: Path) -> Iterator[Step]:
    replaced(here, "a", tensors_of(9))
    (here / "a/README.md").write_text("---\nbase_model: org/other\n---\n")
    on_base(here)
    yield VERIFY
    write_checkpoint(here / "other", tensors_of(9))
    write_checkpoint(here / "tuned", fine_tune(tensors_of(9), 3))
    on_base(here, "./tuned", base_model="./other")
    yield VERIFY


def strangers_whose_card_names_a_base(here: Path) -> Iterator[Step]:
    replaced(here, "a", tensors_of(9))
    (here / "b/README.md").write_text("---\nbase_model: org/other\n---\n")
    yield VERIFY
    recipe(here, models=[{"model": "./base"}, {"model": "./b"}])
    yield VERIFY


def a_card_that_names_another_base(here: Path) -> Iterator[Step]:
    write_checkpoint(here / "other", fine_tune(tensors_of(0), 7))
    (here / "a/README.md").write_text("---\nbase_model: org/other\n---\n")
    on_base(here)
    yield VERIFY
    on_base(here, base_model="./other")
    yield VERIFY


def one_that_is_much_longer(here: Path) -> Iterator[Step]:
    base, large = tensors_of(0), tensors_of(5, 0.2)
    replaced(here, "a", {name: base[name] + large[name] for name in base})
    on_base(here)
    yield VERIFY
    on_base(here, "./b")
    yield VERIFY


def layers_of_strangers(here: Path) -> Iterator[Step]:
    replaced(here, "a", tensors_of(9))
    for name in "ab":
        config(here / name, num_hidden_layers=4)
    halves = [("./a", [0, 2]), ("./b", [2, 4])]
    slices = [{"sources": [{"model": name, "layer_range": each}]} for name, each in halves]
    (here / "recipe.yaml").write_text(
        yaml.safe_dump({"merge_method": "passthrough", "slices": slices})
    )
    yield VERIFY
    (here / "recipe.yaml").write_text((here / "recipe.yaml").read_text().replace("./a", "./base"))
    config(here / "base", num_hidden_layers=4)
    yield VERIFY


@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_kinship(situation: Situation, here: Path, mergeflow: Shell, advice: Advice) -> None:
    recipe(here)
    advice.follow(mergeflow, situation(here))
