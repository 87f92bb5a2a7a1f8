"""The tensors of a checkpoint that have one row for each token: embeddings, heads, head biases."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from merge_core.checkpoints.checkpoint import Checkpoint
from merge_core.tensors.names import group_of, kinds_of, layer_of

_POSITIONS = re.compile(r"(position|wpe|token_type|segment|patch)", re.I)
_OTHER_NAMES = re.compile(r"(^|\.)(output|head|emb|proj_out)\.(weight|bias)$")
"""Heads and embeddings outside the layers whose names say less than transformers' usual ones."""


@dataclass(frozen=True)
class Tables:
    """The tensors that a vocabulary indexes."""

    rows: int
    """Their first extent: the number of tokens, and often some unused rows."""
    names: tuple[str, ...]


def vocabulary_tables(checkpoint: Checkpoint) -> Tables | None:
    """Embeddings and heads with as many rows as the vocabulary; None where there are none.

    The number of rows is config.json's `vocab_size`, or that of the tallest embedding where no
    tensor agrees with the config.
    """
    kinds = kinds_of(checkpoint.tensors)
    indexed = {kind for kind in set(kinds) if is_indexed_by_token(kind)}
    heights = {
        name: entry.shape[0]
        for kind, (name, entry) in zip(kinds, checkpoint.tensors.items(), strict=True)
        if kind in indexed and entry.shape
    }
    embeddings = [
        rows
        for name, rows in heights.items()
        if group_of(name) == "embeddings" and len(checkpoint.tensors[name].shape) > 1
    ]
    declared = vocab_size_of(checkpoint.config)
    if declared in heights.values():
        rows = declared
    elif embeddings:
        rows = max(embeddings)
    else:
        return None
    assert rows is not None
    return Tables(rows, tuple(name for name, height in heights.items() if height == rows))


def vocab_size_of(config: Mapping[str, Any]) -> int | None:
    """`vocab_size` of a config, or of the text model within it."""
    inner = config.get("text_config")
    for section in (inner, config):
        if isinstance(section, dict | Mapping) and type(section.get("vocab_size")) is int:
            return int(section["vocab_size"])
    return None


@lru_cache(maxsize=4096)
def is_indexed_by_token(name: str) -> bool:
    """Whether a tensor of this name has a row for each token: an embedding, a head, its bias."""
    if _POSITIONS.search(name):
        return False
    if group_of(name) in ("embeddings", "head"):
        return True
    return layer_of(name) is None and bool(_OTHER_NAMES.search(name))
