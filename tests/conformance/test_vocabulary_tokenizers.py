"""transformers loads the merged tokenizer and model, and finds for every token of every model the
row that this model has for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from flows.model_zoo.tokenizer import train_tokenizer
from merge_core.homes.home import Home
from merge_core.operations.merge import merge
from merge_core.recipes.loading import parse_recipe
from merge_core.records import SourceCheckpoint
from tests.support.checkpoints import run_recipe
from tests.support.tiny_llama import described

Build = Callable[[list[str]], Tokenizer]
PAD, BEGIN, END = "<pad>", "<s>", "</s>"
BASE = [*"abcdefgh", "ab", "cd"]
OTHER = [*"hgfedcba", "i", "ef", "cd"]


def byte_pairs(pieces: list[str]) -> Tokenizer:
    vocabulary = {token: number for number, token in enumerate([PAD, BEGIN, END, *pieces])}
    merges = [(piece[0], piece[1]) for piece in pieces if len(piece) == 2]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def unigram(pieces: list[str]) -> Tokenizer:
    listed = [
        (PAD, 0.0),
        (BEGIN, 0.0),
        (END, 0.0),
        *((piece, -1.0 - len(piece)) for piece in pieces),
    ]
    return Tokenizer(models.Unigram(listed, 0))


def word_pieces(pieces: list[str]) -> Tokenizer:
    vocabulary = {token: number for number, token in enumerate([PAD, BEGIN, END, *pieces])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def words(pieces: list[str]) -> Tokenizer:
    vocabulary = {token: number for number, token in enumerate([PAD, BEGIN, END, *pieces])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


KINDS: dict[str, Build] = {
    "BPE": byte_pairs,
    "Unigram": unigram,
    "WordPiece": word_pieces,
    "WordLevel": words,
}


def write_model(
    directory: Path,
    tokenizer: Tokenizer,
    added: list[str],
    *,
    seed: int,
    spare_rows: int = 0,
    tied: bool = False,
) -> SourceCheckpoint:
    """A Llama saved by transformers, with a tokenizer that has further special tokens."""
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (PAD, BEGIN, END)])
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in added])
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size() + spare_rows,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    special = {"pad_token": PAD, "bos_token": BEGIN, "eos_token": END}
    kind = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (directory / "tokenizer_config.json").write_text(json.dumps({**kind, **special}))
    return described(directory)


def rows_of(directory: Path) -> dict[str, torch.Tensor]:
    """The embedding row of every token, found by the ids that transformers gives."""
    ids = AutoTokenizer.from_pretrained(directory).get_vocab()
    table = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    weights = table.get_input_embeddings().weight.detach()
    assert max(ids.values()) < len(weights)
    return {token: weights[number] for token, number in ids.items()}


def merged(tmp_path: Path, sources: list[SourceCheckpoint], recipe: dict[str, Any]) -> Path:
    out = tmp_path / "out"
    run_recipe(recipe, {source.reference: source for source in sources}, out)
    return out


def averaged(**keys: Any) -> dict[str, Any]:
    return {
        "merge_method": "linear",
        "models": [{"model": "base"}, {"model": "other"}],
        **keys,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_union_has_the_row_of_every_token_of_every_model(kind: str, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", KINDS[kind](BASE), ["<one>"], seed=0)
    other = write_model(tmp_path / "other", KINDS[kind](OTHER), ["<two>", "<one>"], seed=1)
    out = merged(tmp_path, [base, other], averaged(tokenizer_source="union"))
    found, ours, theirs = rows_of(out), rows_of(base.directory), rows_of(other.directory)
    assert found.keys() == ours.keys() | theirs.keys()
    for token, row in found.items():
        having = [rows[token].double() for rows in (ours, theirs) if token in rows]
        assert torch.equal(row, (sum(having) / len(having)).float()), token  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", KINDS)
def test_a_union_splits_text_as_its_base_and_knows_the_others_special_tokens(
    kind: str, tmp_path: Path
) -> None:
    base = write_model(tmp_path / "base", KINDS[kind](BASE), ["<one>"], seed=0)
    other = write_model(tmp_path / "other", KINDS[kind](OTHER), ["<two>", "<one>"], seed=1)
    out = merged(tmp_path, [base, other], averaged(tokenizer_source="union"))
    new, old = (AutoTokenizer.from_pretrained(path) for path in (out, base.directory))
    written_by_both = ["abcd", "abcacd", "a b c", "<one>abc</s>"]
    if kind in ("BPE", "Unigram"):
        written_by_both.append("efabef")  # a piece of the other model, written as the base does
    for text in written_by_both:
        assert new(text).input_ids == old(text).input_ids, text
    (number,) = new("<two>").input_ids
    assert new.decode([number]) == "<two>"
    assert new.decode([number], skip_special_tokens=True) == ""
    assert new("ab<two>cd").input_ids == [*old("ab").input_ids, number, *old("cd").input_ids]


def test_only_added_tokens_leave_the_base_vocabulary_as_it_is(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", byte_pairs(BASE), [], seed=0)
    other = write_model(tmp_path / "other", byte_pairs(BASE), ["<two>", "<one>"], seed=1)
    out = merged(tmp_path, [base, other], averaged(tokenizer_source="union"))
    before, after = (
        json.loads((path / "tokenizer.json").read_text()) for path in (base.directory, out)
    )
    assert after["model"] == before["model"]
    assert [each["content"] for each in after["added_tokens"][-2:]] == ["<two>", "<one>"]
    assert AutoTokenizer.from_pretrained(out).get_vocab()["<one>"] == 14


def test_unused_rows_of_the_base_are_kept_and_given_to_new_tokens_first(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", byte_pairs(BASE), [], seed=0, spare_rows=5)
    other = write_model(tmp_path / "other", byte_pairs(BASE), ["<two>"], seed=1, spare_rows=1)
    out = merged(tmp_path, [base, other], averaged(tokenizer_source="union"))
    weights, ours, theirs = (
        load_file(path / "model.safetensors")["lm_head.weight"].double()
        for path in (out, base.directory, other.directory)
    )
    assert len(weights) == len(ours) == 18
    assert torch.equal(weights[13], theirs[13].float().double())  # <two>, which other alone has
    assert torch.equal(weights[14], ((ours[14] + theirs[14]) / 2).float().double())
    assert torch.equal(weights[15:], ours[15:])  # rows that only the base has
    assert AutoModelForCausalLM.from_pretrained(out).config.vocab_size == 18


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", byte_pairs(BASE), [], seed=0, tied=True)
    other = write_model(tmp_path / "other", byte_pairs(BASE), ["<two>"], seed=1, tied=True)
    out = merged(tmp_path, [base, other], averaged(tokenizer_source="union"))
    assert "lm_head.weight" not in load_file(out / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.lm_head.weight.shape == (14, 8)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_the_config_has_the_special_ids_of_another_models_tokenizer(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", byte_pairs(BASE), [], seed=0)
    tokenizer = byte_pairs(OTHER)
    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"] |= {PAD: 2, BEGIN: 0, END: 1}
    other = write_model(
        tmp_path / "other", Tokenizer.from_str(json.dumps(content)), ["<two>"], seed=1
    )
    out = merged(tmp_path, [base, other], averaged(tokenizer_source="other"))
    config = json.loads((out / "config.json").read_text())
    assert [config[f"{kind}_token_id"] for kind in ("pad", "bos", "eos")] == [2, 0, 1]
    assert config["vocab_size"] == 15
    generation = json.loads((out / "generation_config.json").read_text())
    assert (generation["bos_token_id"], generation["eos_token_id"]) == (0, 1)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (other.directory / name).read_bytes()


def test_rows_are_padded_with_their_mean(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", byte_pairs(BASE), [], seed=0)
    other = write_model(tmp_path / "other", byte_pairs(BASE), ["<two>"], seed=1)
    recipe = averaged(tokenizer={"source": "base", "pad_to_multiple_of": 8})
    out = merged(tmp_path, [base, other], recipe)
    rows = load_file(out / "model.safetensors")["model.embed_tokens.weight"].double()
    assert len(rows) == 16
    mean = rows[:13].mean(0)
    torch.testing.assert_close(rows[13:], mean.expand(3, -1), rtol=1e-6, atol=1e-8)


def test_tokens_without_rows_are_taken_out_of_the_tokenizer(tmp_path: Path) -> None:
    base = write_model(
        tmp_path / "base", byte_pairs(BASE), ["<one>", "<two>"], seed=0, spare_rows=-2
    )
    other = write_model(tmp_path / "other", byte_pairs(BASE), ["<two>"], seed=1)
    out = merged(tmp_path, [base, other], averaged(tokenizer_source="union"))
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert "<one>" not in tokenizer.get_vocab()
    assert tokenizer("<two>").input_ids == [13]
    assert rows_of(out)["<two>"].equal(rows_of(other.directory)["<two>"])


def test_the_tokenizer_config_lists_the_new_tokens_where_it_lists_any(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", byte_pairs(BASE), [], seed=0)
    path = base.directory / "tokenizer_config.json"
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    listed = {
        str(number): {"content": token, "special": True, **flags}
        for number, token in enumerate((PAD, BEGIN, END))
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | {"added_tokens_decoder": listed}))
    (base.directory / "added_tokens.json").write_text(json.dumps({PAD: 0}))
    other = write_model(tmp_path / "other", byte_pairs(OTHER), ["<two>"], seed=1)
    out = merged(tmp_path, [described(base.directory), other], averaged(tokenizer_source="union"))
    decoder = json.loads((out / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    ids = AutoTokenizer.from_pretrained(out).get_vocab()
    assert decoder[str(ids["<two>"])] == {"content": "<two>", "special": True, **flags}
    assert len(decoder) == 4  # ordinary pieces of the other model are not among them
    assert json.loads((out / "added_tokens.json").read_text())["<two>"] == ids["<two>"]


def test_the_command_merges_what_verify_refuses_without_the_setting(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", byte_pairs(BASE), [], seed=0)
    other = write_model(tmp_path / "other", byte_pairs(BASE), ["<two>"], seed=1)
    path = other.directory / "model.safetensors"
    tables = {name: rows for name, rows in load_file(path).items() if len(rows) == 14}
    save_file(load_file(base.directory / "model.safetensors") | tables, path, {"format": "pt"})
    sources = {"base": base, "other": described(other.directory)}
    home = Home(tmp_path / "home")
    recipe = parse_recipe(averaged())
    with pytest.raises(Exception, match="<two>") as caught:
        merge(recipe, sources, home=home)
    assert "`tokenizer_source: union`" in str(caught.value)
    manifest = merge(parse_recipe(averaged(tokenizer_source="union")), sources, home=home)
    assert "<two>" in rows_of(Path(manifest.path))


def test_tokenizers_trained_on_different_text_are_united(tmp_path: Path) -> None:
    texts = {
        "base": ["the cat sat on the mat and the dog sat on the log"] * 20,
        "other": ["def parse(text): return text.split(); class Parser: pass"] * 20,
    }
    sources = {}
    for seed, (name, lines) in enumerate(texts.items()):
        trained = train_tokenizer(lines, vocabulary=300, context=64)
        write_model(tmp_path / name, trained.backend_tokenizer, [], seed=seed)
        trained.save_pretrained(tmp_path / name)
        sources[name] = described(tmp_path / name)
    out = tmp_path / "out"
    run_recipe(averaged(tokenizer_source="union"), sources, out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    base, other = (AutoTokenizer.from_pretrained(tmp_path / name) for name in texts)
    for text in [line[0] for line in texts.values()]:
        assert tokenizer(text).input_ids == base(text).input_ids
        assert tokenizer.decode(tokenizer(text).input_ids) == text
        pieces = other.convert_ids_to_tokens(other(text).input_ids)
        assert tokenizer.decode(tokenizer.convert_tokens_to_ids(pieces)) == text
    found, ours, theirs = (rows_of(tmp_path / name) for name in ("out", "base", "other"))
    for mine, yours in ((ours, theirs), (theirs, ours)):
        only = mine.keys() - yours.keys()
        assert len(only) > 10
        assert all(torch.equal(found[token], mine[token]) for token in only)


def test_recipes_used_by_name_share_one_vocabulary(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", byte_pairs(BASE), ["<one>"], seed=0)
    other = write_model(tmp_path / "other", byte_pairs(OTHER), ["<two>"], seed=1)
    third = write_model(tmp_path / "third", byte_pairs(OTHER), ["<one>", "<two>"], seed=2)
    recipe = {
        "recipes": [averaged(name="first")],
        "merge_method": "linear",
        "models": [{"model": "first"}, {"model": "third"}],
        "tokenizer_source": "union",
    }
    out = merged(tmp_path, [base, other, third], recipe)
    found = rows_of(out)
    rows = [rows_of(each.directory) for each in (base, other, third)]
    assert found.keys() == set().union(*rows)
    for token in ("a", "cd"):  # tokens of all three
        ours, theirs, last = (each[token].double() for each in rows)
        expected = (((ours + theirs) / 2 + last) / 2).float()
        torch.testing.assert_close(found[token], expected, rtol=1e-6, atol=1e-9)
    assert torch.equal(found["ab"], rows[0]["ab"])
    mean = (rows[1]["<two>"].double() + rows[2]["<two>"].double()) / 2
    expected = (((mean + rows[1]["<two>"]) / 2 + rows[2]["<two>"]) / 2).float()
    torch.testing.assert_close(found["<two>"], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["BPE", "Unigram", "WordLevel"])
def test_what_the_base_cannot_write_is_written_with_the_others_pieces(
    kind: str, tmp_path: Path
) -> None:
    base = write_model(tmp_path / "base", KINDS[kind](BASE), [], seed=0)
    other = write_model(tmp_path / "other", KINDS[kind](OTHER), [], seed=1)
    out = merged(tmp_path, [base, other], averaged(tokenizer_source="union"))
    new, old = (AutoTokenizer.from_pretrained(path) for path in (out, base.directory))
    assert new("i").input_ids == [new.get_vocab()["i"]]
    assert "i" not in old.get_vocab()


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "Qwen2Tokenizer", "LlamaTokenizer"])
def test_tokenizer_classes_of_model_families_find_the_same_ids(name: str, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", byte_pairs(BASE), ["<one>"], seed=0)
    path = base.directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": name}))
    other = write_model(tmp_path / "other", byte_pairs(OTHER), ["<two>", "<one>"], seed=1)
    out = merged(tmp_path, [described(base.directory), other], averaged(tokenizer_source="union"))
    content = json.loads((out / "tokenizer.json").read_text())
    found = AutoTokenizer.from_pretrained(out).get_vocab()
    assert {token: found[token] for token in content["model"]["vocab"]} == content["model"]["vocab"]
