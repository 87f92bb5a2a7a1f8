"""Checkpoints of one vocabulary are left alone; different ones are refused or brought together as
the recipe says, and a recipe that says it wrongly is told where.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.errors import CheckpointError, CompatibilityError, RecipeError
from merge_core.recipes.loading import parse_recipe
from merge_core.records import SourceCheckpoint
from merge_core.tensors.safetensors_header import TensorEntry
from merge_core.tokenizers import alignment
from merge_core.tokenizers.alignment import align_vocabularies
from merge_core.tokenizers.embeddings import vocabulary_tables
from merge_core.tokenizers.merged import MergedTokenizer
from merge_core.tokenizers.rows import GatheredRows
from merge_core.tokenizers.tokenizer import Tokenizer, read_tokenizer
from merge_core.verification import verify
from tests.support.tiny_llama import base_weights, described, tokenizer_json, write_llama

TABLES = ("lm_head.weight", "model.embed_tokens.weight")


def tokenizer(*added: str, **moved: int) -> dict[str, Any]:
    """The test tokenizer with further added tokens, and other ids for some of its tokens."""
    content = copy.deepcopy(tokenizer_json())
    content["model"]["vocab"] |= moved
    for number, token in enumerate(added):
        content["added_tokens"].append({"id": 20 + number, "content": token, "special": True})
    return content


def weights(rows: int = 32, seed: int = 0) -> dict[str, torch.Tensor]:
    found = base_weights(seed)
    return found | {name: torch.randn(rows, 16) for name in TABLES}


def linear(*models: str, **keys: Any) -> dict[str, Any]:
    return {"merge_method": "linear", "models": [{"model": each} for each in models], **keys}


def aligned(
    sources: list[SourceCheckpoint], **keys: Any
) -> tuple[Mapping[str, Any], MergedTokenizer | None]:
    recipe = parse_recipe(linear(*(source.reference for source in sources), **keys))
    checkpoints = {source.reference: open_checkpoint(source.directory) for source in sources}
    return align_vocabularies(recipe, checkpoints, {each.reference: each for each in sources})


@pytest.mark.parametrize("keys", [{}, {"tokenizer_source": "base"}, {"tokenizer_source": "union"}])
def test_checkpoints_of_one_vocabulary_are_left_alone(tmp_path: Path, keys: dict[str, str]) -> None:
    sources = [write_llama(tmp_path / name, base_weights(seed)) for seed, name in enumerate("ab")]
    checkpoints, merged = aligned(sources, **keys)
    assert merged is None
    assert all(checkpoints[each.reference] == open_checkpoint(each.directory) for each in sources)


def test_equal_tokens_in_differently_written_files_are_one_vocabulary(tmp_path: Path) -> None:
    a = write_llama(tmp_path / "a", base_weights(0))
    b = write_llama(tmp_path / "b", base_weights(1), tokenizer={"x": 1, **tokenizer_json()})
    assert aligned([a, b])[1] is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tokenizer("<x>"), "1 token only here: '<x>' (id 20)"),
        (tokenizer(a=4, b=3), "2 tokens with another id: 'b' is 3, there 4, 'a' is 4, there 3"),
    ],
)
def test_different_vocabularies_are_refused_with_what_differs_and_the_setting(
    tmp_path: Path, content: dict[str, Any], words: str
) -> None:
    a = write_llama(tmp_path / "a", base_weights(0))
    b = write_llama(tmp_path / "b", base_weights(1), tokenizer=content)
    with pytest.raises(CompatibilityError) as caught:
        aligned([a, b])
    assert f"b: its vocabulary is not that of a: {words}" in str(caught.value)
    assert "`tokenizer_source: union` keeps every token" in str(caught.value)


def test_embeddings_of_other_heights_are_refused_though_the_tokens_are_the_same(
    tmp_path: Path,
) -> None:
    a = write_llama(tmp_path / "a", weights(32))
    b = write_llama(tmp_path / "b", weights(40), config={"vocab_size": 40})
    with pytest.raises(CompatibilityError, match="have 40 rows, those of a 32"):
        aligned([a, b])
    checkpoints, merged = aligned([a, b], tokenizer_source="base")
    assert merged is not None
    assert merged.vocab_size == 32
    assert {checkpoints["b"].tensors[name].shape for name in TABLES} == {(32, 16)}


def test_a_model_that_only_lacks_tokens_of_the_base_may_be_merged_as_it_is(tmp_path: Path) -> None:
    a = write_llama(tmp_path / "a", base_weights(0), tokenizer=tokenizer("<x>"))
    b = write_llama(tmp_path / "b", base_weights(1))
    assert aligned([a, b])[1] is None
    with pytest.raises(CompatibilityError, match="only here"):
        aligned([b, a])


def test_tables_that_are_in_place_already_are_read_as_they_are(tmp_path: Path) -> None:
    a = write_llama(tmp_path / "a", weights(20))
    b = write_llama(tmp_path / "b", weights(21), tokenizer=tokenizer("<x>"))
    checkpoints, merged = aligned([a, b], tokenizer_source="union")
    assert merged is not None
    assert merged.vocab_size == 21
    for name in TABLES:
        assert isinstance(checkpoints["a"].tensors[name], GatheredRows)
        assert isinstance(checkpoints["b"].tensors[name], TensorEntry)
    assert checkpoints["a"].tensors["model.norm.weight"].shape == (16,)


def test_a_model_without_a_tokenizer_is_taken_to_have_the_bases(tmp_path: Path) -> None:
    a = write_llama(tmp_path / "a", weights(20))
    b = write_llama(tmp_path / "b", weights(21), tokenizer=tokenizer("<x>"))
    c = write_llama(tmp_path / "c", weights(20))
    (c.directory / "tokenizer.json").unlink()
    c = described(c.directory)
    checkpoints, merged = aligned([a, b, c], tokenizer_source="union")
    assert merged is not None
    rows = checkpoints["c"].tensors[TABLES[0]]
    assert isinstance(rows, GatheredRows)
    assert [source.shape[0] for source in rows.sources] == [21, 20]
    d = write_llama(tmp_path / "d", weights(19))
    (d.directory / "tokenizer.json").unlink()
    with pytest.raises(CompatibilityError, match="its tokens are not known"):
        aligned([a, b, described(d.directory)], tokenizer_source="union")


def test_a_tokenizer_without_tokenizer_json_cannot_be_merged(tmp_path: Path) -> None:
    a = write_llama(tmp_path / "a", weights(20))
    b = write_llama(tmp_path / "b", weights(20))
    (b.directory / "tokenizer.json").unlink()
    (b.directory / "vocab.json").write_text(json.dumps({"a": 0}))
    with pytest.raises(CheckpointError, match=r"vocab\.json but no tokenizer\.json"):
        aligned([a, described(b.directory)], tokenizer_source="union")


def test_a_model_without_embeddings_cannot_be_given_another_vocabulary(tmp_path: Path) -> None:
    a = write_llama(tmp_path / "a", {"model.norm.weight": torch.ones(16)})
    b = write_llama(tmp_path / "b", {"model.norm.weight": torch.ones(16)}, tokenizer=tokenizer("x"))
    with pytest.raises(CompatibilityError, match="no embedding with a row for each token"):
        aligned([a, b], tokenizer_source="union")


def test_quantised_rows_are_not_rearranged(tmp_path: Path) -> None:
    packed = {name: torch.ones(21, 16, dtype=torch.int8) for name in TABLES}
    a = write_llama(tmp_path / "a", weights(20))
    b = write_llama(tmp_path / "b", weights(21) | packed, tokenizer=tokenizer("<x>"))
    with pytest.raises(CompatibilityError, match="stored as I8"):
        aligned([a, b], tokenizer_source="union")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (
            {
                "bert.embeddings.word_embeddings.weight": 32,
                "bert.embeddings.position_embeddings.weight": 32,
                "bert.embeddings.token_type_embeddings.weight": 2,
                "bert.embeddings.LayerNorm.weight": 32,
                "cls.predictions.bias": 32,
                "cls.predictions.decoder.weight": 32,
                "cls.predictions.transform.dense.weight": 16,
            },
            {
                "bert.embeddings.word_embeddings.weight",
                "cls.predictions.bias",
                "cls.predictions.decoder.weight",
            },
        ),
        (
            {"transformer.wte.weight": 32, "transformer.wpe.weight": 32, "lm_head.weight": 32},
            {"transformer.wte.weight", "lm_head.weight"},
        ),
        (
            {"shared.weight": 32, "encoder.block.0.layer.0.SelfAttention.q.weight": 32},
            {"shared.weight"},
        ),
        (
            {"model.tok_embeddings.weight": 32, "output.weight": 32, "layers.0.output.weight": 32},
            {"model.tok_embeddings.weight", "output.weight"},
        ),
    ],
)
def test_tables_are_found_by_their_names_and_heights(
    tmp_path: Path, names: dict[str, int], found: set[str]
) -> None:
    source = write_llama(
        tmp_path / "m", {name: torch.ones(rows, 8) for name, rows in names.items()}
    )
    tables = vocabulary_tables(open_checkpoint(source.directory))
    assert tables is not None
    assert (tables.rows, set(tables.names)) == (32, found)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"tokenizer_source": "c"}, "tokenizer_source: 'c' is not one of the checkpoints"),
        ({"tokenizer": {"source": "c"}}, "tokenizer.source: 'c' is not one of the checkpoints"),
        (
            {"tokenizer": {"sources": "a"}},
            "tokenizer.sources: unknown key 'sources'; did you mean 'source'?",
        ),
        ({"tokenizer": {"pad_to_multiple_of": 0}}, "tokenizer.pad_to_multiple_of"),
        ({"tokenizer": {"tokens": {"<x>": {"force": True}}}}, "force needs a source"),
        ({"tokenizer": {"tokens": {"<x>": {"source": "c"}}}}, "tokens.<x>.source: 'c' is not one"),
        (
            {"tokenizer": {"tokens": {"<x>": {"source": {"kind": "model_token", "model": "a"}}}}},
            "either by token",
        ),
        ({"tokenizer": {"tokens": {"<x>": {"source": {"kind": "zeros"}}}}}, "did you mean 'zero'"),
        (
            {"tokenizer": {"source": "union"}, "tokenizer_source": "base"},
            "either tokenizer_source or tokenizer",
        ),
    ],
)
def test_a_mistake_in_the_block_is_named_with_its_place(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(linear("a", "b", **keys))
    assert words in str(caught.value)


def test_a_recipe_with_the_block_survives_being_written(tmp_path: Path) -> None:
    tokens = {
        "<x>": {"source": {"kind": "zero"}, "force": True},
        "<y>": {"source": {"kind": "model_token", "model": "a", "token_id": 0}},
        "<z>": {"source": "b"},
    }
    recipe = parse_recipe(linear("a", "b", tokenizer={"source": "base", "tokens": tokens}))
    again = parse_recipe(recipe.to_yaml())
    assert again == recipe
    assert again.digest == recipe.digest


def test_only_the_last_of_several_recipes_decides_on_the_vocabulary() -> None:
    earlier = linear("a", "b", name="first", tokenizer_source="union")
    with pytest.raises(RecipeError, match="only the last recipe of several decides") as caught:
        parse_recipe({**linear("first", "c"), "recipes": [earlier]})
    assert "recipe first" in str(caught.value)


def test_a_union_refuses_a_tokenizer_that_it_cannot_read(tmp_path: Path) -> None:
    a, b = (write_llama(tmp_path / name, weights(20 + at)) for at, name in enumerate("ab"))
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt"):
        (b.directory / name).unlink(missing_ok=True)
    (b.directory / "tokenizer.model").write_bytes(b"pieces")
    with pytest.raises(CheckpointError, match=r"tokenizer.model but no tokenizer.json"):
        aligned([a, b.model_copy(update={"files": ()})], tokenizer_source="union")


@pytest.mark.parametrize("hashed", [True, False], ids=["hashed", "not hashed"])
def test_of_equal_tokenizers_one_is_read(
    tmp_path: Path, hashed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tokenizer("<new>")
    sources = [
        write_llama(tmp_path / name, weights(seed), tokenizer=content)
        for seed, (name, content) in enumerate((("a", None), ("b", None), ("c", other)))
    ]
    if not hashed:
        sources = [source.model_copy(update={"files": ()}) for source in sources]
    read: list[str] = []

    def noted(directory: Path) -> Tokenizer | None:
        read.append(directory.name)
        return read_tokenizer(directory)

    for module in (alignment, verify):
        monkeypatch.setattr(module, "read_tokenizer", noted)
    verify.verify(None, sources, scan_weights=False)
    assert read == ["a", "c"]
    aligned(sources, tokenizer_source="union")
    assert read[2:] in (["a", "c"], ["b", "c"])


def test_files_of_slow_tokenizers_have_the_new_tokens_too(tmp_path: Path) -> None:
    a = write_llama(tmp_path / "a", weights(20))
    vocabulary = tokenizer_json()["model"]["vocab"]
    (a.directory / "vocab.json").write_text(json.dumps(vocabulary))
    (a.directory / "merges.txt").write_text("#version: 0.2\na b\nc d\n")
    (a.directory / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary))
    (a.directory / "tokenizer.model").write_bytes(b"pieces")
    content = tokenizer("<x>")
    content["model"]["vocab"]["ef"] = 21
    b = write_llama(tmp_path / "b", weights(22), tokenizer=content)
    _, merged = aligned([described(a.directory), b], tokenizer_source="union")
    assert merged is not None
    assert json.loads(merged.files["vocab.json"]) == vocabulary | {"<x>": 20, "ef": 21}
    assert merged.files["vocab.txt"].decode().split() == [*vocabulary, "<x>", "ef"]
    assert merged.files["merges.txt"] == b"#version: 0.2\na b\nc d\n"
    assert merged.files["chat_template.jinja"] == (a.directory / "chat_template.jinja").read_bytes()
    assert "tokenizer.model" not in merged.files


def test_merges_of_tokens_that_no_row_stands_for_are_taken_out(tmp_path: Path) -> None:
    content = tokenizer()
    content["model"]["vocab"] |= {"ef": 20, "efa": 21}
    content["model"]["merges"] += [["e", "f"], ["ef", "a"]]
    a = write_llama(tmp_path / "a", weights(20), tokenizer=content)
    (a.directory / "merges.txt").write_text("#version: 0.2\na b\nc d\ne f\nef a\n")
    b = write_llama(tmp_path / "b", weights(21), tokenizer=tokenizer("<x>"))
    _, merged = aligned([described(a.directory), b], tokenizer_source="union")
    assert merged is not None
    model = json.loads(merged.files["tokenizer.json"])["model"]
    assert model["merges"] == [["a", "b"], ["c", "d"]]
    assert model["vocab"] == tokenizer_json()["model"]["vocab"]
    assert merged.files["merges.txt"] == b"#version: 0.2\na b\nc d\n"


def test_the_special_ids_of_a_text_models_config_follow_too() -> None:
    merged = MergedTokenizer({}, 40, {1: 5, 2: 6}, {"eos_token_id": 7, "pad_token_id": 8})
    config = {
        "eos_token_id": [2, 9],
        "pad_token_id": 3,
        "image_token_index": 1,
        "text_config": {"vocab_size": 32, "bos_token_id": 1, "eos_token_id": 9, "layers": 2},
    }
    assert merged.adjusted(config) == {
        "eos_token_id": [6],
        "pad_token_id": 8,
        "image_token_index": 5,
        "text_config": {"vocab_size": 40, "bos_token_id": 5, "eos_token_id": 7, "layers": 2},
    }
    assert config["pad_token_id"] == 3
