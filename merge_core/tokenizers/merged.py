"""What a merge of vocabularies leaves beside the weights: tokenizer files, ids in the configs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_ID_KEYS = ("_token_id", "_token_ids", "_token_index")


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
        inner, leading = result.get("text_config"), self.leading_config
        self._adjust(result, leading)
        if isinstance(inner, dict):
            own = leading.get("text_config")
            self._adjust(inner, own if isinstance(own, dict) else leading)
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
