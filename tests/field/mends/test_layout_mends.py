"""Mends of checkpoints that transformers loads, and that are stored otherwise than is read here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from merge_core.checkpoints.adapters import open_adapter
from tests.field.mends.situations import VERIFY, Situation, again, recipe, rewrite, situations
from tests.support.adapters import random_factors, write_adapter
from tests.support.followed_mends import Advice, Shell, Step

pytestmark = pytest.mark.slow  # `make field`


def tied_llama(place: Path, seed: int) -> None:
    """Relatives: they differ by little."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=True))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.001 * torch.randn(parameter.shape)
    model.save_pretrained(place)


def one_tensor_of_two_names(here: Path) -> Iterator[Step]:
    from transformers import AutoModelForCausalLM

    for seed, name in enumerate(("tied-a", "tied-b"), 1):
        tied_llama(here / name, seed)
    file = here / "tied-a/model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    recipe(here, models=[{"model": "./tied-a"}, {"model": "./tied-b"}])
    yield VERIFY
    for name in ("tied-a", "tied-b"):
        AutoModelForCausalLM.from_pretrained(here / name).save_pretrained(here / f"{name}-again")
    recipe(here, models=[{"model": "./tied-a-again"}, {"model": "./tied-b-again"}])
    yield VERIFY


def shards_in_a_directory_below(here: Path) -> Iterator[Step]:
    again(here, "a", shards=2)
    (here / "a/weights").mkdir()
    for shard in (here / "a").glob("model-*"):
        shard.rename(here / "a/weights" / shard.name)
    index = here / "a/model.safetensors.index.json"
    value = json.loads(index.read_text())
    names = value["weight_map"]
    index.write_text(
        json.dumps(value | {"weight_map": {key: f"weights/{names[key]}" for key in names}})
    )
    yield VERIFY
    for shard in (here / "a/weights").iterdir():
        shard.rename(here / "a" / shard.name)
    index.write_text(index.read_text().replace("weights/", ""))
    yield VERIFY


def a_table_of_complex_numbers(here: Path) -> Iterator[Step]:
    rewrite(here / "a", lambda it: it.update(freqs_cis=torch.ones(4, dtype=torch.complex64)))
    yield VERIFY
    rewrite(here / "a", lambda it: it.pop("freqs_cis"))
    yield VERIFY


def a_module_that_is_meant_two_ways(here: Path) -> Iterator[Step]:
    name = "model.experts.w+.q_proj"
    factors = random_factors({name: (12, 8)}, 3)
    write_adapter(here / "lora", factors, alpha_pattern={name: 9, "q_proj": 6})
    yield (open_adapter, here / "lora")
    write_adapter(here / "again", factors, alpha_pattern={"q_proj": 6})
    yield (open_adapter, here / "again")


@pytest.mark.parametrize("situation", situations(globals()), ids=lambda each: each.__name__)
def test_layout(situation: Situation, here: Path, mergeflow: Shell, advice: Advice) -> None:
    recipe(here)
    advice.follow(mergeflow, situation(here))
