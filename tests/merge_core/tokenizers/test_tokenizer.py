"""Tokenizers are compared by what they do, not by how their files are written."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from merge_core.errors import CheckpointError
from merge_core.findings import Finding
from merge_core.tokenizers.comparison import compare_tokenizers
from merge_core.tokenizers.tokenizer import Tokenizer, read_tokenizer
from tests.support.tiny_llama import tokenizer_json

Write = Callable[..., Tokenizer | None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes tokenizer files into a directory of their own and reads them back."""

    def one(name: str, /, **files: Any) -> Tokenizer | None:
        directory = tmp_path / name
        directory.mkdir()
        for stem, content in files.items():
            file = directory / stem.replace("_", ".")
            if isinstance(content, bytes):
                file.write_bytes(content)
            else:
                file.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_tokenizer(directory)

    return one


def compared(base: Tokenizer | None, model: Tokenizer | None, **options: bool) -> list[Finding]:
    return compare_tokenizers("base", base, "model", model, **options)


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The test tokenizer after a change in place."""
    content = copy.deepcopy(tokenizer_json())
    change(content)
    return content


def test_formatting_key_order_and_runtime_settings_make_no_difference(write: Write) -> None:
    content = tokenizer_json()
    reordered = dict(reversed(content.items())) | {
        "padding": {"strategy": "BatchLongest"},
        "truncation": {"max_length": 512},
    }
    base = write("base", tokenizer_json=content)
    model = write("model", tokenizer_json=json.dumps(reordered, indent=3))
    assert compared(base, model) == []
    assert base is not None
    assert model is not None
    assert base.digest == model.digest


def test_the_older_form_of_merges_and_left_out_defaults_make_no_difference(write: Write) -> None:
    def older(content: dict[str, Any]) -> None:
        content["model"]["merges"] = ["a b", "c d"]
        content["model"] |= {"byte_fallback": False, "unk_token": None}
        del content["pre_tokenizer"]["use_regex"]

    base = write("base", tokenizer_json=tokenizer_json())
    assert compared(base, write("model", tokenizer_json=changed(older))) == []


def test_tokens_with_other_ids_are_an_error_that_shows_some(write: Write) -> None:
    def renumbered(content: dict[str, Any]) -> None:
        content["model"]["vocab"] |= {"a": 4, "b": 3}
        content["model"]["vocab"]["new"] = content["model"]["vocab"].pop("o")

    finding = compared(
        write("base", tokenizer_json=tokenizer_json()),
        write("model", tokenizer_json=changed(renumbered)),
    )[0]
    assert (finding.severity, finding.code) == ("error", "vocabulary-differs")
    assert "2 tokens with another id, 1 only here, 1 only there" in finding.message
    assert "'a' is id 4, there 3" in finding.message
    assert "id 17 is 'new', there 'o'" in finding.message
    assert finding.mend


def test_an_added_token_that_takes_an_id_in_use_is_an_error(write: Write) -> None:
    def taken(content: dict[str, Any]) -> None:
        content["added_tokens"].append({"id": 5, "content": "<chat>", "special": True})

    findings = compared(
        write("base", tokenizer_json=tokenizer_json()),
        write("model", tokenizer_json=changed(taken)),
    )
    assert [finding.code for finding in findings] == ["vocabulary-differs"]


def test_tokens_added_at_free_ids_would_be_lost_and_missing_ones_are_a_warning(
    write: Write,
) -> None:
    def extended(content: dict[str, Any]) -> None:
        content["added_tokens"].append({"id": 30, "content": "<chat>", "special": True})

    base = write("base", tokenizer_json=tokenizer_json())
    model = write("model", tokenizer_json=changed(extended))
    (finding,) = compared(base, model)
    assert (finding.severity, finding.code) == ("error", "tokens-added")
    assert "`tokenizer_source: union`" in (finding.mend or "")
    assert "'<chat>' (id 30)" in finding.message
    (finding,) = compared(model, base)
    assert (finding.severity, finding.code) == ("warning", "tokens-missing")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["model"]["merges"].reverse(), "2 of 2 merges, the first at rank 0"),
        (lambda c: c["model"]["merges"].append(["e", "f"]), "1 of 3 merges, the first at rank 2"),
        (lambda c: c.update(normalizer={"type": "NFC"}), 'normalizer {"type":"NFC"}, there null'),
        (lambda c: c["pre_tokenizer"].update(add_prefix_space=True), "pre_tokenizer"),
        (lambda c: c["model"].update(byte_fallback=True), '"byte_fallback":true'),
    ],
)
def test_another_way_of_splitting_text_is_an_error(
    write: Write, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    (finding,) = compared(
        write("base", tokenizer_json=tokenizer_json()),
        write("model", tokenizer_json=changed(change)),
    )
    assert (finding.severity, finding.code) == ("error", "tokenizer-splits-differently")
    assert words in finding.message
    assert finding.mend


def test_other_tokens_around_a_text_are_a_warning(write: Write) -> None:
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}]}
    (finding,) = compared(
        write("base", tokenizer_json=tokenizer_json()),
        write("model", tokenizer_json=changed(lambda c: c.update(post_processor=template))),
    )
    assert (finding.severity, finding.code) == ("warning", "tokenizer-frames-differently")


def test_other_flags_of_an_added_token_are_information(write: Write) -> None:
    (finding,) = compared(
        write("base", tokenizer_json=tokenizer_json()),
        write(
            "model", tokenizer_json=changed(lambda c: c["added_tokens"][0].update(special=False))
        ),
    )
    assert (finding.severity, finding.code) == ("info", "tokenizer-details-differ")
    assert "'<pad>'" in finding.message


def test_unigram_pieces_are_compared_with_their_scores(write: Write) -> None:
    def unigram(scores: list[float]) -> dict[str, Any]:
        vocab = [[piece, score] for piece, score in zip("abc", scores, strict=True)]
        return {"model": {"type": "Unigram", "vocab": vocab}}

    base = write("base", tokenizer_json=unigram([0.0, -1.0, -2.0]))
    assert compared(base, write("same", tokenizer_json=unigram([0.0, -1.0, -2.0]))) == []
    (finding,) = compared(base, write("other", tokenizer_json=unigram([0.0, -1.5, -2.0])))
    assert "the scores of its pieces" in finding.message


def test_the_older_vocabulary_files_mean_the_same_as_the_newer_one(write: Write) -> None:
    content = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}
    older = write("older", vocab_json={"a": 0, "b": 1, "ab": 2}, merges_txt="#version: 0.2\na b\n")
    assert compared(write("newer", tokenizer_json=content), older) == []
    lines = write("lines", vocab_txt="a\nb\nab\n")
    assert lines is not None
    assert lines.ids == {"a": 0, "b": 1, "ab": 2}


def test_binary_tokenizers_are_compared_by_their_bytes(write: Write) -> None:
    base = write("base", tokenizer_model=b"one")
    assert compared(base, write("same", tokenizer_model=b"one")) == []
    (finding,) = compared(base, write("other", tokenizer_model=b"two"))
    assert (finding.severity, finding.code) == ("error", "vocabulary-differs")


def test_files_of_different_kinds_that_cannot_be_compared_are_a_warning(write: Write) -> None:
    base, model = write("base", tokenizer_model=b"one"), write("model", vocab_json={"a": 0})
    (finding,) = compared(base, model)
    assert (finding.severity, finding.code) == ("warning", "tokenizer-not-comparable")
    assert "save_pretrained" in (finding.mend or "")


def test_a_missing_tokenizer_is_a_warning(write: Write) -> None:
    (finding,) = compared(write("base", tokenizer_json=tokenizer_json()), write("model"))
    assert (finding.severity, finding.code) == ("warning", "tokenizer-missing")
    assert finding.message.startswith("model has no tokenizer files")
    assert compared(None, None) == []


def test_a_missing_tokenizer_stays_a_warning_where_vocabularies_are_merged(write: Write) -> None:
    (finding,) = compared(write("base", tokenizer_json=tokenizer_json()), None, may_differ=True)
    assert (finding.severity, finding.code) == ("warning", "tokenizer-missing")


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"model": {"vocab": {"a": "0"}}},
        {"model": {"vocab": {"\ud800": 0}}},
        {"model": {"vocab": [["a", 0.0], ["b", None]]}},
        {"model": {"vocab": {"a": 0}, "merges": ["abc"]}},
        {"model": {"vocab": {}}, "added_tokens": [{"id": None, "content": "x"}]},
        {"model": {"vocab": {}}, "added_tokens": ["x"]},
    ],
)
def test_a_damaged_tokenizer_file_is_refused_by_name(write: Write, content: object) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        write("model", tokenizer_json=content)
