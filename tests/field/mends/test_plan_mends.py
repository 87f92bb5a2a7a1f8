"""Mends of plans that a program makes without comparing the checkpoints first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from merge_core.checkpoints.sources import describe_source
from merge_core.files.digests import DigestMemo
from merge_core.methods.parameter import Parameter
from merge_core.planning.plan import make_plan
from merge_core.recipes.loading import parse_recipe
from merge_core.recipes.parameters import Level, resolve
from tests.field.mends.situations import (
    Situation,
    config,
    on_base,
    recipe,
    replaced,
    rewrite,
    situations,
    tensors_of,
)
from tests.field.mends.test_stacking_mends import TWICE, counted, paired, stacked
from tests.field.mends.test_tokenizer_mends import longer
from tests.support.followed_mends import Advice, Shell, Step

pytestmark = pytest.mark.slow  # `make field`

NORM = "model.layers.0.input_layernorm.weight"


def planned(here: Path) -> int:
    """Plan recipe.yaml; how many tensors the result has."""
    loaded = parse_recipe(yaml.safe_load((here / "recipe.yaml").read_text()))
    sources = {
        name: describe_source(name, here / name, DigestMemo(None)) for name in loaded.references()
    }
    return len(make_plan(loaded, sources).tensors)


def a_config_of_other_weights(here: Path) -> Iterator[Step]:
    counted(here)
    config(here / "a", num_hidden_layers=6)
    stacked(here, *TWICE)
    yield (planned, here)
    config(here / "a", num_hidden_layers=4)
    yield (planned, here)


def two_numbers_of_layers(here: Path) -> Iterator[Step]:
    config(here / "a", num_hidden_layers=4, text_config={"num_hidden_layers": 6})
    stacked(here, *TWICE)
    yield (planned, here)
    config(here / "a", num_hidden_layers=4, text_config={"num_hidden_layers": 4})
    yield (planned, here)


def integers_beside_floats_in_a_slice(here: Path) -> Iterator[Step]:
    counted(here)
    rewrite(here / "b", lambda tensors: tensors.update({NORM: torch.ones(8).long()}))
    paired(here, ("a", 0, 4), ("b", 0, 4))
    yield (planned, here)
    paired(here, ("a", 0, 4), ("b", 0, 4), exclude=[NORM])
    yield (planned, here)


def integers_beside_floats(here: Path) -> Iterator[Step]:
    rewrite(here / "b", lambda tensors: tensors.update({NORM: torch.ones(8).long()}))
    on_base(here)
    yield (planned, here)
    on_base(here, exclude=[NORM])
    yield (planned, here)


def flags_beside_floats(here: Path) -> Iterator[Step]:
    rewrite(here / "b", lambda tensors: tensors.update({NORM: torch.ones(8).bool()}))
    yield (planned, here)
    replaced(here, "b", tensors_of(0))
    yield (planned, here)


def other_tensors(here: Path) -> Iterator[Step]:
    rewrite(here / "a", lambda tensors: tensors.pop("model.layers.3.mlp.up_proj.weight"))
    yield (planned, here)
    recipe(here, models=[{"model": "./base"}, {"model": "./b"}])
    yield (planned, here)


def rows_that_are_packed(here: Path) -> Iterator[Step]:
    longer(here)
    packed = {"model.embed_tokens.weight": torch.zeros(8, 8, dtype=torch.int8)}
    rewrite(here / "b", lambda tensors: tensors.update(packed))
    recipe(here, tokenizer_source="union")
    yield (planned, here)
    floats = {"model.embed_tokens.weight": torch.zeros(8, 8)}
    rewrite(here / "b", lambda tensors: tensors.update(floats))
    yield (planned, here)


def no_value_for_a_tensor(here: Path) -> Iterator[Step]:
    weight = Parameter("weight", "how much of it", default=None)

    def resolved(*levels: dict[str, Any]) -> object:
        return resolve(weight, [Level("parameters", each) for each in levels], "x.weight", 0.0)

    yield (resolved, {"weight": [{"filter": "mlp", "value": 1.0}]})
    yield (resolved, {"weight": [{"filter": "mlp", "value": 1.0}]}, {"weight": 0.5})


@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_plan(situation: Situation, here: Path, mergeflow: Shell, advice: Advice) -> None:
    recipe(here)
    advice.follow(mergeflow, situation(here))
