"""What a merge of vocabularies leaves beside the weights: tokenizer files, ids in the configs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_ID_KEYS = ("_token_id", "_token_ids", "_token_index")
ID_LISTS = (
    *("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids"),
    *("forced_decoder_ids", "lang_to_id", "task_to_id"),
)
"""Further settings of generation_config.json that hold ids of tokens, in lists and maps."""
_OF_ANY_TEXT = re.compile(
    r"^(decoder_)?(bos|eos|pad|unk|sep|cls|mask|start|forced_bos|forced_eos)_"
)
"""Special tokens that a model can do without, or has another of."""
_TEXT = "text_config"
_PLACE_IN_TEXT = "forced_decoder_ids"
"""Pairs of a place in the text and an id."""


@dataclass(frozen=True)
class MergedTokenizer:
    """The tokenizer of a merge whose vocabularies were brought together."""

    files: Mapping[str, bytes]
    """Every tokenizer file of the result, in place of the donor's."""
    vocab_size: int
    """Rows of its embeddings."""
    moved: Mapping[int, int] | None = None
    """New id of each of the donor's tokens that is kept; None when they all keep theirs."""
    leading_config: Mapping[str, Any] = field(default_factory=dict)
    """Config of the model that the tokenizer comes from, for tokens that are not kept."""

    def adjusted(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The donor's config.json or generation_config.json, with this vocabulary's size and ids.

        A special token that the vocabulary lacks becomes the one of the tokenizer's own model.
        """
        result: dict[str, Any] = json.loads(json.dumps(config))
        for section, leading in _sections(result, self.leading_config):
            self._adjust(section, leading)
        return result

    def _adjust(self, section: dict[str, Any], leading: Mapping[str, Any]) -> None:
        if "vocab_size" in section:
            section["vocab_size"] = self.vocab_size
        if self.moved is None:
            return
        for key in [key for key in section if key.endswith(_ID_KEYS)]:
            value = section[key]
            if type(value) is int:
                section[key] = self.moved.get(value, leading.get(key))
            elif isinstance(value, list) and all(type(item) is int for item in value):
                kept = [self.moved[item] for item in value if item in self.moved]
                section[key] = kept or leading.get(key)
        for key in ID_LISTS:
            if key in section:
                section[key] = _moved(section[key], self.moved, pairs=key == _PLACE_IN_TEXT)


def lost_tokens(
    config: Mapping[str, Any], leading: Mapping[str, Any], moved: Mapping[int, int]
) -> dict[str, int]:
    """Settings of a donor that name a token which a vocabulary lacks, and their ids.

    The place of an image or of sound in a text is such a token: without it, a model that sees
    cannot be shown anything.

    Args:
        leading: config of the model that the vocabulary comes from; it may name a token of its own.
        moved: the new id of each of the donor's tokens that is kept.
    """
    return {
        key: section[key]
        for section, theirs in _sections(dict(config), leading)
        for key in section
        if key.endswith(_ID_KEYS)
        and type(section[key]) is int
        and section[key] >= 0
        and section[key] not in moved
        and theirs.get(key) is None
        and not _OF_ANY_TEXT.search(key)
    }


def _sections(
    config: dict[str, Any], leading: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], Mapping[str, Any]]]:
    """The parts of a config that speak of the text's tokens, each with the same of another config:
    the whole, its text model, and parts that have a text model of their own."""
    yield config, leading
    inner = config.get(_TEXT)
    if isinstance(inner, dict):
        own = leading.get(_TEXT)
        yield inner, own if isinstance(own, Mapping) else leading
    for key, part in config.items():
        if key != _TEXT and isinstance(part, dict) and isinstance(part.get(_TEXT), dict):
            own = leading.get(key)
            yield from _sections(part, own if isinstance(own, Mapping) else leading)


def _moved(value: Any, moved: Mapping[int, int], *, pairs: bool = False) -> Any:
    """Ids in lists and maps, moved; what names a token that is gone is left out."""
    if pairs and isinstance(value, list):
        return [
            [pair[0], moved[pair[1]]]
            for pair in value
            if isinstance(pair, list) and len(pair) == 2 and pair[1] in moved
        ]
    if isinstance(value, dict):
        return {key: moved[item] for key, item in value.items() if item in moved}
    if not isinstance(value, list):
        return value
    if all(type(item) is int for item in value):
        return [moved[item] for item in value if item in moved]
    whole = [(item, _moved(item, moved)) for item in value]
    return [new for old, new in whole if not isinstance(old, list) or len(new) == len(old)]
