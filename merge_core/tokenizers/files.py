"""The tokenizer files of a merged vocabulary: the leading tokenizer's, with tokens put in and out.

Text is split as the leading tokenizer splits it. Another model's added tokens (`<|im_start|>`) are
matched in the text as they are there; its ordinary pieces get ids, so that they can be decoded and
named, but no merges.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merge_core.files.bounded_json import read_json
from merge_core.files.names import OPAQUE_VOCABULARIES, TOKENIZER_FILES
from merge_core.files.untrusted import read_plain
from merge_core.tokenizers.union import Flags, MergedVocabulary, Vocabulary

_MAX_BYTES = 256 << 20
_FLAGS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


def tokenizer_files(
    directory: Path, leading: Vocabulary, merged: MergedVocabulary
) -> dict[str, bytes]:
    """Every tokenizer file of the result by name; unchanged ones byte for byte.

    Vocabularies in other forms (sentencepiece's) are left out where they would lack a piece.
    """
    files = {}
    for name in TOKENIZER_FILES:
        if (directory / name).is_file():
            files[name] = read_plain(directory / name, _MAX_BYTES)
    if not merged.new and not leading.rowless:
        return files
    content = read_json(directory / "tokenizer.json")
    _drop(content, leading.rowless)
    pieces = any(flags is None for flags in merged.new.values())
    files["tokenizer.json"] = _json(_extended(content, merged, spell_out=pieces), indent=None)
    for name, change in (
        ("tokenizer_config.json", _change_tokenizer_config),
        ("added_tokens.json", _change_added_tokens),
    ):
        if name in files:
            files[name] = _json(change(read_json(directory / name), leading, merged))
    if "vocab.json" in files:
        files["vocab.json"] = _json(content["model"]["vocab"], indent=None)
    if "vocab.txt" in files:
        by_id = {number: token for token, number in merged.ids.items()}
        lines = [by_id.get(number, _unnamed(number)) for number in range(merged.size)]
        files["vocab.txt"] = "".join(f"{line}\n" for line in lines).encode()
    if "merges.txt" in files and leading.rowless:
        merges = [_pair(merge) for merge in content["model"].get("merges") or []]
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        files["merges.txt"] = "".join(f"{line}\n" for line in lines).encode()
    if pieces or leading.rowless:
        for name in OPAQUE_VOCABULARIES:
            files.pop(name, None)
    return files


def _drop(content: dict[str, Any], tokens: tuple[str, ...]) -> None:
    """Take out tokens that no row stands for, and the merges that need or make them."""
    if not tokens:
        return
    gone = set(tokens)
    content["added_tokens"] = [
        each for each in content.get("added_tokens") or [] if each["content"] not in gone
    ]
    model = content["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {t: number for t, number in model["vocab"].items() if t not in gone}
    else:
        model["vocab"] = [each for each in model["vocab"] if each[0] not in gone]
    if model.get("merges"):
        model["merges"] = [
            merge
            for merge in model["merges"]
            for left, right in (_pair(merge),)
            if not gone & {left, right, left + right}
        ]


def _extended(
    content: dict[str, Any], merged: MergedVocabulary, *, spell_out: bool
) -> dict[str, Any]:
    """tokenizer.json with the new tokens.

    The tokenizers library numbers added tokens that its model does not list one by one after the
    model's entries. That is right when only such tokens are new; otherwise every id is spelled out
    in the model's vocabulary.
    """
    vocabulary = content["model"]["vocab"]
    added = list(content.get("added_tokens") or [])
    outside = [each["content"] for each in added if each["content"] not in _listed(vocabulary)]
    numbered = len(vocabulary) + len(outside) + len(merged.new) == merged.size
    if spell_out or not numbered:
        if isinstance(vocabulary, dict):
            content["model"]["vocab"] = dict(sorted(merged.ids.items(), key=lambda it: it[1]))
        else:
            content["model"]["vocab"] = _scored(vocabulary, merged)
    added += [_entry(token, flags, merged) for token, flags in merged.new.items() if flags]
    content["added_tokens"] = sorted(added, key=lambda each: int(each["id"]))
    return content


def _scored(pieces: list[list[Any]], merged: MergedVocabulary) -> list[list[Any]]:
    """A Unigram vocabulary with further pieces, scored so low that any other split wins."""
    by_id = {number: token for token, number in merged.ids.items()}
    lowest = min((float(score) for _, score in pieces), default=0.0)
    longest = max((len(token) for token in merged.ids), default=0)
    score = (lowest - 1.0) * (longest + 1)
    extra = range(len(pieces), merged.size)
    return [*pieces, *([by_id.get(number, _unnamed(number)), score] for number in extra)]


def _change_tokenizer_config(
    content: dict[str, Any], leading: Vocabulary, merged: MergedVocabulary
) -> dict[str, Any]:
    """tokenizer_config.json, whose `added_tokens_decoder` repeats the added tokens by id."""
    decoder = content.get("added_tokens_decoder")
    if not isinstance(decoder, dict):
        return content
    gone = set(leading.rowless)
    kept = {
        number: token
        for number, token in decoder.items()
        if not isinstance(token, dict) or token.get("content") not in gone
    }
    for token, flags in merged.new.items():
        if flags:
            entry = _entry(token, flags, merged)
            kept[str(entry["id"])] = {key: entry[key] for key in _FLAGS}
    return content | {"added_tokens_decoder": kept}


def _change_added_tokens(
    content: dict[str, Any], leading: Vocabulary, merged: MergedVocabulary
) -> dict[str, Any]:
    """added_tokens.json: id by token."""
    kept = {token: number for token, number in content.items() if token not in leading.rowless}
    return kept | {token: merged.ids[token] for token, flags in merged.new.items() if flags}


def _entry(token: str, flags: Flags, merged: MergedVocabulary) -> dict[str, Any]:
    return {
        "id": merged.ids[token],
        "content": token,
        **{flag: bool(flags.get(flag)) for flag in _FLAGS[1:]},
    }


def _listed(vocabulary: Any) -> set[str]:
    if isinstance(vocabulary, dict):
        return set(vocabulary)
    return {piece[0] for piece in vocabulary}


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _unnamed(number: int) -> str:
    return f"<unnamed_{number}>"


def _json(value: Mapping[str, Any], indent: int | None = 2) -> bytes:
    """Without an indent what a large file holds is written many times faster."""
    return (json.dumps(value, indent=indent, ensure_ascii=False) + "\n").encode()
