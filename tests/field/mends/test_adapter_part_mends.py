"""Mends of adapters of a part of their base, of what PEFT alone can do, of what comes with them.

Where PEFT's `merge_and_unload` is advised, its arithmetic is done by hand: W + B @ A.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.field.mends.situations import (
    PLAN,
    VERIFY,
    Situation,
    fine_tune,
    recipe,
    replaced,
    situations,
    tensors_of,
)
from tests.field.mends.test_adapter_mends import UP, adapted, lora, merge_and_unload
from tests.field.mends.test_tokenizer_mends import added, alike, tokenizer
from tests.support.adapters import random_factors, write_adapter
from tests.support.followed_mends import Advice, Shell, Step

pytestmark = pytest.mark.slow  # `make field`

MODULE = "encoder.layers.0.self_attn.q_proj"


def two_towers_that_it_may_be_of(here: Path) -> Iterator[Step]:
    towers = {f"{part}.{MODULE}.weight": torch.randn(8, 8) for part in ("text", "vision")}
    for name in ("base", "b"):
        replaced(here, name, towers)
    lora(here, module=MODULE)
    adapted(here)
    yield VERIFY
    lora(here, module=f"vision.{MODULE}")
    yield VERIFY


def _partly_elsewhere(here: Path, **settings: Any) -> None:
    shutil.rmtree(here / "lora", ignore_errors=True)
    factors = random_factors({UP: (8, 8), "model.layers.0.mlp.gate": (8, 8)}, 2, scale=0.05)
    write_adapter(here / "lora", factors, **settings)
    adapted(here)


def names_that_the_library_changes(here: Path) -> Iterator[Step]:
    _partly_elsewhere(here, base_model_name_or_path=None)
    yield VERIFY
    merge_and_unload(here)
    yield VERIFY


def names_that_the_library_changes_in_a_named_base(here: Path) -> Iterator[Step]:
    _partly_elsewhere(here, base_model_name_or_path="org/own")
    yield VERIFY
    merge_and_unload(here)
    yield VERIFY


def an_adapter_that_no_weights_can_hold(here: Path) -> Iterator[Step]:
    lora(here, alora_invocation_tokens=[3])
    adapted(here)
    yield VERIFY
    recipe(here, models=[{"model": "./a"}, {"model": "./b"}])
    yield VERIFY


def layers_that_an_adapter_repeats(here: Path) -> Iterator[Step]:
    config = {"model_type": "llama", "num_hidden_layers": 4}
    (here / "base/config.json").write_text(json.dumps(config))
    lora(here, module=UP.replace("layers.0", "layers.5"), layer_replication=[[0, 4], [2, 4]])
    alone = {"merge_method": "passthrough", "models": [{"model": "./base+./lora"}]}
    recipe(here, **alone)
    yield VERIFY

    def stack() -> str:
        from flows.cli.program import run

        slices = [
            {"sources": [{"model": "./base", "layer_range": layers}]} for layers in ([0, 4], [2, 4])
        ]
        recipe(here, merge_method="passthrough", models=None, slices=slices)
        text = (here / "recipe.yaml").read_text().replace("models: null\n", "")
        (here / "recipe.yaml").write_text(text)
        assert run(["merge", "recipe.yaml", "stack"]) == 0
        settings = json.loads((here / "lora/adapter_config.json").read_text())
        del settings["layer_replication"]
        (here / "lora/adapter_config.json").write_text(json.dumps(settings))
        recipe(here, merge_method="passthrough", models=[{"model": "./stack+./lora"}])
        assert run(["merge", "recipe.yaml", "out"]) == 0
        return "stacked"

    yield (stack,)


def a_tokenizer_beside_an_adapter(here: Path) -> Iterator[Step]:
    alike(here)
    directory = lora(here)
    tokenizer(directory, added_tokens=[added("<x>", 8)])
    recipe(here, merge_method="passthrough", models=[{"model": "./base+./lora"}])
    yield VERIFY
    shutil.copytree(here / "base", here / "copy")
    shutil.copyfile(directory / "tokenizer.json", here / "copy/tokenizer.json")
    recipe(here, merge_method="passthrough", models=[{"model": "./copy+./lora"}])
    yield VERIFY


def the_place_of_an_image_that_is_lost(here: Path) -> Iterator[Step]:
    alike(here)
    tokenizer(here / "base", "abcdefg", added_tokens=[added("<image>", 7)])
    tokenizer(here / "a", "abcdefgh"[::-1])
    (here / "base/config.json").write_text(json.dumps({"model_type": "llama", "image_token_id": 7}))
    recipe(here, models=[{"model": "./base"}, {"model": "./a"}], tokenizer_source="./a")
    yield PLAN
    recipe(here, models=[{"model": "./base"}, {"model": "./a"}], tokenizer_source="union")
    yield PLAN


def layers_in_several_lists(here: Path) -> Iterator[Step]:
    def in_lists(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        kept = {
            name.replace("model.layers.", "body.attentions.").replace("self_attn.", ""): tensor
            for name, tensor in tensors.items()
            if "mlp" not in name
        }
        mlps = {name: tensor for name, tensor in tensors.items() if "mlp" in name}
        return kept | {
            name.replace("model.layers.", "body.ffns."): tensor for name, tensor in mlps.items()
        }

    replaced(here, "a", in_lists(tensors_of(0)))
    replaced(here, "b", in_lists(fine_tune(tensors_of(0), 1)))
    slices = [
        {"sources": [{"model": each, "layer_range": layers} for each in ("./a", "./b")]}
        for layers in ([0, 2], [1, 4])
    ]
    recipe(here, slices=slices)
    text = (here / "recipe.yaml").read_text()
    (here / "recipe.yaml").write_text(text.replace("models:\n- model: ./a\n- model: ./b\n", ""))
    yield PLAN
    recipe(here)
    yield PLAN


@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_adapter_part(situation: Situation, here: Path, mergeflow: Shell, advice: Advice) -> None:
    advice.follow(mergeflow, situation(here))
