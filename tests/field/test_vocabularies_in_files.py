"""Vocabularies and rotary settings that are equal in other words, and some that only look equal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from merge_core.configs.rotary import rope_of
from merge_core.tokenizers.tokenizer import read_tokenizer
from merge_core.verification.verify import verify
from tests.support.checkpoints import run_recipe
from tests.support.tiny_llama import base_weights, described, fine_tuned, write_llama

ODD = ("\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e")
"""What Python takes for the end of a line, and a vocabulary does not."""
WORDS = ["[PAD]", "[UNK]", "a", *ODD, "b", "c\u2028d", "\r", "##e"]


def pair(root: Path, files: Mapping[str, Mapping[str, str]]) -> list[Any]:
    """Findings about the tokenizer of `one`, a fine-tune of `base`, each with files of its own."""
    weights = base_weights()
    for index, name in enumerate(("base", "one")):
        write_llama(root / name, fine_tuned(weights, index) if index else weights)
        for usual in ("tokenizer.json", "tokenizer_config.json"):
            (root / name / usual).unlink()
        for file, content in files[name].items():
            (root / name / file).write_bytes(content.encode())
    report = verify(described(root / "base"), [described(root / "one")], scan_weights=False)
    return [each for each in report.findings if each.code.startswith(("vocab", "token"))]


def word_piece(words: list[str]) -> str:
    return Tokenizer(
        models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    ).to_str()


@pytest.mark.parametrize("ending", ["\n", ""])
def test_a_token_may_be_what_python_takes_for_the_end_of_a_line(
    tmp_path: Path, ending: str
) -> None:
    listed = "\n".join(WORDS) + ending
    assert not pair(
        tmp_path, {"base": {"tokenizer.json": word_piece(WORDS)}, "one": {"vocab.txt": listed}}
    )
    read = read_tokenizer(tmp_path / "one")
    assert read is not None
    assert read.ids == {word: number for number, word in enumerate(WORDS)}


def test_lines_of_windows_hold_the_same_tokens(tmp_path: Path) -> None:
    words = [word for word in WORDS if word != "\r"]
    files = {
        "base": {"vocab.txt": "\n".join(words)},
        "one": {"vocab.txt": "\r\n".join(words) + "\r\n"},
    }
    assert not pair(tmp_path, files)


def test_a_token_that_moved_is_still_found(tmp_path: Path) -> None:
    moved = [*WORDS[:4], *WORDS[5:], WORDS[4]]
    files = {"base": {"vocab.txt": "\n".join(WORDS)}, "one": {"vocab.txt": "\n".join(moved)}}
    assert [each.code for each in pair(tmp_path, files)] == ["vocabulary-differs"]


PLAIN = {"vocab.json": json.dumps({"a": 0, "b": 1}), "merges.txt": "#version: 0.2\na b\n"}
DECODER = {"added_tokens_decoder": {"2": {"content": "<x>", "special": True}}}
SENTENCES = {"tokenizer.model": "not really sentencepiece, and compared byte for byte"}
FAST = {"tokenizer.json": word_piece(["[UNK]", "a", "b"])}


@pytest.mark.parametrize("vocabulary", [PLAIN, {"vocab.txt": "a\nb\n"}, SENTENCES, FAST])
def test_tokens_in_a_file_of_their_own_belong_to_the_vocabulary(
    tmp_path: Path, vocabulary: dict[str, str]
) -> None:
    first = 3 if vocabulary is FAST else 2

    def added(number: int, token: str) -> dict[str, str]:
        return vocabulary | {"added_tokens.json": json.dumps({token: number})}

    cases: dict[str, tuple[dict[str, str], dict[str, str], list[str]]] = {
        "same": (added(first, "<x>"), added(first, "<x>"), []),
        "more": (vocabulary, added(first, "<x>"), ["tokens-added"]),
        "fewer": (added(first, "<x>"), vocabulary, ["tokens-missing"]),
        "other": (added(first, "<x>"), added(first, "<y>"), ["vocabulary-differs"]),
        "moved": (added(first, "<x>"), added(first + 1, "<x>"), ["vocabulary-differs"]),
    }
    for name, (base, one, codes) in cases.items():
        found = pair(tmp_path / name, {"base": base, "one": one})
        assert [each.code for each in found] == codes, name


def tekken(*tokens: str, **more: Any) -> str:
    """A vocabulary as Mistral publishes it."""
    listed = [{"rank": i, "token_bytes": token} for i, token in enumerate(tokens)]
    return json.dumps({"config": {"pattern": "x"}, "vocab": listed, **more})


@pytest.mark.parametrize(
    ("name", "content", "other"),
    [
        ("qwen.tiktoken", "YQ== 0\nYg== 1\n", "Yg== 0\nYQ== 1\n"),
        ("tiktoken.model", "YQ== 0\nYg== 1\n", "Yg== 0\nYQ== 1\n"),
        ("tekken.json", tekken("YQ==", "Yg=="), tekken("Yg==", "YQ==")),
    ],
)
def test_a_vocabulary_in_a_form_that_is_not_read_is_compared_and_copied(
    name: str, content: str, other: str, tmp_path: Path
) -> None:
    same = pair(tmp_path / "same", {"base": {name: content}, "one": {name: content}})
    assert not same
    (found,) = pair(tmp_path / "other", {"base": {name: content}, "one": {name: other}})
    assert (found.code, found.severity) == ("vocabulary-differs", "error")
    assert name in {file.name for file in described(tmp_path / "same/base").files}
    recipe = {"merge_method": "linear", "models": [{"model": "base"}, {"model": "one"}]}
    sources = {each: described(tmp_path / "same" / each) for each in ("base", "one")}
    run_recipe(recipe, sources, tmp_path / "out")
    assert (tmp_path / "out" / name).read_text() == content


def test_what_newer_files_say_beside_the_tokens_is_no_difference(tmp_path: Path) -> None:
    newer = tekken("YQ==", "Yg==", image={"size": 8})
    files = {"base": {"tekken.json": tekken("YQ==", "Yg==")}, "one": {"tekken.json": newer}}
    assert not pair(tmp_path, files)


def test_added_tokens_by_number_are_those_by_name(tmp_path: Path) -> None:
    by_number = PLAIN | {"tokenizer_config.json": json.dumps(DECODER)}
    by_name = PLAIN | {"added_tokens.json": json.dumps({"<x>": 2})}
    assert not pair(tmp_path, {"base": by_number, "one": by_name})


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LENGTH = {"max_position_embeddings": 4096}
SAME_ROPE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama3, whole numbers and an old name": (
        LENGTH
        | {
            "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **LLAMA3}
            | {"original_max_position_embeddings": 16}
        },
        LENGTH
        | {
            "rope_theta": 500000,
            "rope_scaling": {"type": "llama3", "original_max_position_embeddings": 16, "factor": 8}
            | {"low_freq_factor": 1, "high_freq_factor": 4},
        },
    ),
    "both names of the kind": (
        {"rope_scaling": {"type": "yarn", "rope_type": "yarn", "factor": 4}, **LENGTH},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}, **LENGTH},
    ),
    "the trained length spelled out or not": (
        {"rope_scaling": {"type": "yarn", "factor": 4}, **LENGTH},
        {
            "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 32, "beta_slow": 1}
            | {"original_max_position_embeddings": 4096},
            **LENGTH,
        },
    ),
    "a linear scaling by one": (
        {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 1}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000}},
    ),
    "a share of the head, inside and outside": (
        {"rope_theta": 10000, "partial_rotary_factor": 0.25},
        {"rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.25}},
    ),
    "the whole head, said or not": ({"rope_theta": 10000, "partial_rotary_factor": 1}, {}),
    "gpt-neox": (
        {"rotary_emb_base": 10000, "rotary_pct": 0.25},
        {"rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.25}},
    ),
    "gemma 3": (
        {"model_type": "gemma3_text", "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0}
        | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {
            "model_type": "gemma3_text",
            "rope_parameters": {
                "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8},
                "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
            },
        },
    ),
    "gemma 3 within a multimodal config": (
        {"text_config": {"model_type": "gemma3_text", "rope_theta": 1000000}},
        {
            "text_config": {
                "model_type": "gemma3_text",
                "rope_parameters": {
                    "full_attention": {"rope_theta": 1e6, "rope_type": "default"},
                    "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
                },
            }
        },
    ),
    "modernbert": (
        {"model_type": "modernbert", "global_rope_theta": 160000, "local_rope_theta": 10000},
        {
            "model_type": "modernbert",
            "rope_parameters": {
                "full_attention": {"rope_theta": 160000.0, "rope_type": "default"},
                "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
            },
        },
    ),
    "one base for all kinds of layers": (
        {"rope_theta": 5000000},
        {
            "rope_parameters": {
                kind: {"rope_theta": 5e6, "rope_type": "default"}
                for kind in ("full_attention", "sliding_attention")
            }
        },
    ),
    "longrope by its first name": (
        {"rope_scaling": {"type": "su", "short_factor": [1, 2], "long_factor": [3, 4]}, **LENGTH},
        {
            "rope_parameters": {"rope_type": "longrope", "short_factor": [1.0, 2.0]}
            | {"long_factor": [3.0, 4.0]},
            **LENGTH,
        },
    ),
    "a multimodal rope": (
        {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}},
        {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}},
    ),
}


@pytest.mark.parametrize("notation", sorted(SAME_ROPE))
def test_equal_rotary_settings_are_equal_in_any_notation(notation: str) -> None:
    one, other = SAME_ROPE[notation]
    assert rope_of(one) == rope_of(other)


@pytest.mark.parametrize(
    "change",
    [
        {"rope_theta": 10001},
        {"rope_scaling": {"type": "linear", "factor": 2}},
        {"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {}}},
        {"partial_rotary_factor": 0.5},
        {"rope_scaling": {"type": "mrope", "mrope_section": [1]}},
    ],
)
def test_other_rotary_settings_are_others(change: dict[str, Any]) -> None:
    assert rope_of({"rope_theta": 10000.0}) != rope_of({"rope_theta": 10000.0} | change)


def test_settings_that_are_no_settings_do_no_harm() -> None:
    for config in (
        {"rope_scaling": 3},
        {"rope_parameters": {"a": {}, "b": 1}},
        {"text_config": []},
    ):
        assert isinstance(rope_of(config), dict)
