"""Ids and sizes in the configs of a result with another vocabulary, wherever they are said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from merge_core.errors import CompatibilityError
from merge_core.planning.engine_version import Peculiarities, engine_of
from merge_core.planning.model_config import merged_config
from merge_core.recipes.loading import parse_recipe
from merge_core.tokenizers.merged import MergedTokenizer
from tests.support.checkpoints import run_recipe
from tests.support.tiny_llama import TOKENS, base_weights, tokenizer_json, write_llama

MOVED = {1: 1, 2: 2, 5: 6, 6: 5, 7: 7}
MERGED = MergedTokenizer(files={}, vocab_size=40, moved=MOVED)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"suppress_tokens": [5, 9, 7]}, {"suppress_tokens": [6, 7]}),
        ({"begin_suppress_tokens": [6]}, {"begin_suppress_tokens": [5]}),
        ({"bad_words_ids": [[5], [5, 9], [6, 7]]}, {"bad_words_ids": [[6], [5, 7]]}),
        ({"forced_decoder_ids": [[1, 5], [2, 9]]}, {"forced_decoder_ids": [[1, 6]]}),
        ({"lang_to_id": {"<|de|>": 5, "<|xx|>": 9}}, {"lang_to_id": {"<|de|>": 6}}),
        ({"suppress_tokens": None}, {"suppress_tokens": None}),
        ({"eos_token_id": [2, 5]}, {"eos_token_id": [2, 6]}),
        (
            {"thinker_config": {"audio_token_index": 5, "text_config": {"vocab_size": 32}}},
            {"thinker_config": {"audio_token_index": 6, "text_config": {"vocab_size": 40}}},
        ),
        (
            {"talker_config": {"codec_eos_token_id": 5, "vocab_size": 32}},
            {"talker_config": {"codec_eos_token_id": 5, "vocab_size": 32}},
        ),
    ],
)
def test_what_names_tokens_names_the_same_ones(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    assert MERGED.adjusted(before) == after


def test_a_dtype_is_said_alike_in_parts_of_parts() -> None:
    config = {"thinker_config": {"dtype": "float32", "text_config": {"torch_dtype": "float32"}}}
    made = merged_config(config, "bfloat16", stored=True)
    right = {"dtype": "bfloat16", "text_config": {"torch_dtype": "bfloat16"}}
    assert made["thinker_config"] == right


def test_only_plans_that_give_other_bytes_have_another_version() -> None:
    plain = "merge_method: linear\nmodels: [{model: ./a}, {model: ./b}]\n"
    deep, lists = Peculiarities(deep=True), Peculiarities(id_lists=True)
    assert engine_of(parse_recipe(plain), deep) == "4"
    assert engine_of(parse_recipe(plain), lists) == "4"
    assert engine_of(parse_recipe(f"{plain}out_dtype: bfloat16"), deep) == "7"
    assert engine_of(parse_recipe(f"{plain}tokenizer_source: base"), lists) == "7"
    assert engine_of(parse_recipe(plain), Peculiarities(parted=True)) == "7"
    assert engine_of(parse_recipe(plain), Peculiarities(wrappers=True)) == "6"


def test_the_place_of_an_image_is_not_lost(tmp_path: Path) -> None:
    content = tokenizer_json()
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content["added_tokens"].append({"id": 20, "content": "<image>", "special": True, **flags})
    swapped = tokenizer_json()
    names = ["<pad>", "<s>", "</s>", *TOKENS]
    names[5], names[6] = names[6], names[5]
    swapped["model"]["vocab"] = {token: number for number, token in enumerate(names)}
    sees = write_llama(
        tmp_path / "sees", base_weights(), config={"image_token_id": 20}, tokenizer=content
    )
    reads = write_llama(tmp_path / "reads", base_weights(1), tokenizer=swapped)
    recipe = {
        "merge_method": "linear",
        "base_model": "sees",
        "models": [{"model": "sees"}, {"model": "reads"}],
        "tokenizer_source": "reads",
    }
    sources = {"sees": sees, "reads": reads}
    with pytest.raises(CompatibilityError, match=r"reads lacks: image_token_id 20 \('<image>'\)"):
        run_recipe(recipe, sources, tmp_path / "out")
    run_recipe(recipe | {"tokenizer_source": "union"}, sources, tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    tokens = json.loads((tmp_path / "out/tokenizer.json").read_text())["added_tokens"]
    assert [each["id"] for each in tokens if each["content"] == "<image>"] == [20]
    assert config["image_token_id"] == 20
