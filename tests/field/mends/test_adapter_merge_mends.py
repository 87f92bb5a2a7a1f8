"""Mends of `mergeflow adapter`: adapters that cannot be merged with each other, or extracted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.field.mends.situations import (
    Situation,
    fine_tune,
    recipe,
    replaced,
    situations,
    tensors_of,
)
from tests.field.mends.test_adapter_mends import EMBEDDING, UP, lora
from tests.support.adapters import random_factors, write_adapter
from tests.support.followed_mends import Advice, Shell, Step

pytestmark = pytest.mark.slow


def adapters(here: Path, *names: str, **keys: Any) -> None:
    """Write recipe.yaml: a merge of adapters."""
    listed = [{"model": f"./{name}", "parameters": {"weight": 0.5}} for name in names]
    recipe(here, **({"models": listed} | keys))


def stacked_factors_of_another_method(here: Path) -> Iterator[Step]:
    lora(here, "one")
    lora(here, "two")
    adapters(here, "one", "two", merge_method="ties", parameters={"density": 0.5})
    recipe_text = (here / "recipe.yaml").read_text()
    (here / "recipe.yaml").write_text(recipe_text + "base_model: ./base\n")
    yield ("adapter", "merge", "recipe.yaml", "out", "--space", "concat")
    yield ("adapter", "merge", "recipe.yaml", "out", "--space", "core")


def slices_of_adapters(here: Path) -> Iterator[Step]:
    lora(here, "one")
    lora(here, "two")
    sources = [{"model": f"./{name}", "layer_range": [0, 4]} for name in ("one", "two")]
    (here / "recipe.yaml").write_text(
        yaml.safe_dump({"merge_method": "linear", "slices": [{"sources": sources}]})
    )
    yield ("adapter", "merge", "recipe.yaml", "out")
    adapters(here, "one", "two")
    yield ("adapter", "merge", "recipe.yaml", "out")


def adapters_that_would_have_to_run(here: Path) -> Iterator[Step]:
    lora(here, "one")
    lora(here, "two")
    adapters(here, "one", "two", merge_method="fisher", calibration={"data": "x.jsonl"})
    yield ("adapter", "merge", "recipe.yaml", "out")
    recipe(here, models=[{"model": "./base+./one"}, {"model": "./base+./two"}])
    yield ("merge", "recipe.yaml", "out")


def an_adapter_that_saves_weights_in_full(here: Path) -> Iterator[Step]:
    lora(here, "one")
    full = {"base_model.model.lm_head.weight": tensors_of(0)["lm_head.weight"] * 1.01}
    factors = random_factors({UP: (8, 8)}, 2, scale=0.05)
    write_adapter(here / "two", factors, tensors=full, modules_to_save=["lm_head"])
    adapters(here, "one", "two")
    yield ("adapter", "merge", "recipe.yaml", "out")
    recipe(here, models=[{"model": "./base+./one"}, {"model": "./base+./two"}])
    yield ("merge", "recipe.yaml", "out")


def a_copy_of_another_base(here: Path) -> Iterator[Step]:
    embedding = {f"base_model.model.{EMBEDDING}.base_layer.weight": torch.randn(8, 8)}
    factors = random_factors({UP: (8, 8)}, 2, scale=0.05)
    for name in ("one", "two"):
        write_adapter(here / name, factors, tensors=embedding)
    adapters(here, "one", "two", base_model="./base")
    yield ("adapter", "merge", "recipe.yaml", "out")
    own = tensors_of(0) | {f"{EMBEDDING}.weight": next(iter(embedding.values()))}
    replaced(here, "own", own)
    adapters(here, "one", "two", base_model="./own")
    yield ("adapter", "merge", "recipe.yaml", "out")


def adapters_of_two_bases(here: Path) -> Iterator[Step]:
    lora(here, "one")
    lora(here, "two", rows=16)
    adapters(here, "one", "two")
    yield ("adapter", "merge", "recipe.yaml", "out")
    lora(here, "two")
    yield ("adapter", "merge", "recipe.yaml", "out")


def adapters_that_tie_and_do_not(here: Path) -> Iterator[Step]:
    def on_embeddings(name: str, tied: bool) -> None:
        shutil.rmtree(here / name, ignore_errors=True)
        a, b = torch.randn(2, 8), torch.randn(8, 2)
        prefix = f"base_model.model.{EMBEDDING}"
        factors = {f"{prefix}.lora_embedding_A": a, f"{prefix}.lora_embedding_B": b}
        write_adapter(here / name, {}, tensors=factors, r=2, ensure_weight_tying=tied)

    on_embeddings("one", True)
    on_embeddings("two", False)
    adapters(here, "one", "two")
    yield ("adapter", "merge", "recipe.yaml", "out")
    on_embeddings("two", True)
    yield ("adapter", "merge", "recipe.yaml", "out")


def factors_that_float16_cannot_hold(here: Path) -> Iterator[Step]:
    name = f"{UP}.weight"
    large = fine_tune(tensors_of(0), 1)
    large[name] = large[name] + torch.full((8, 8), 1e12)
    replaced(here, "a", large)
    yield ("adapter", "extract", "base", "a", "out", "--dtype", "float16")
    yield ("adapter", "extract", "base", "a", "out", "--dtype", "float32")


def nothing_that_a_lora_holds(here: Path) -> Iterator[Step]:
    norm = "model.layers.0.input_layernorm.weight"
    replaced(here, "a", tensors_of(0) | {norm: tensors_of(0)[norm] * 1.01})
    yield ("adapter", "extract", "base", "a", "out")
    yield ("adapter", "extract", "base", "a", "out", "--save-rest")


def a_glob_of_nothing(here: Path) -> Iterator[Step]:
    yield ("adapter", "extract", "base", "a", "out", "--include", "up_proj")
    yield ("adapter", "extract", "base", "a", "out", "--include", "*up_proj*")


def an_adapter_merge_of_models(here: Path) -> Iterator[Step]:
    lora(here, "one")
    lora(here, "two")
    recipe(here, models=[{"model": "./base+./one"}, {"model": "./base+./two"}])
    yield ("adapter", "merge", "recipe.yaml", "out")
    adapters(here, "one", "two")
    yield ("adapter", "merge", "recipe.yaml", "out")


@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_adapter_merge(situation: Situation, here: Path, mergeflow: Shell, advice: Advice) -> None:
    (here / "x.jsonl").write_text('{"text": "one"}\n' * 4)
    advice.follow(mergeflow, situation(here))
