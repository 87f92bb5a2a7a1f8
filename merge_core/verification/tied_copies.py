"""Copies of a tied embedding: a head, or a second embedding, that holds what the first one holds.

Some checkpoints are stored with the copies, some without; transformers makes one tensor of them.
Where all inputs agree in it, a copy is no tensor of its own: it stays what it is a copy of, for
random methods and stacks of layers too, and to lack it is no difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from merge_core.checkpoints.checkpoint import Checkpoint
from merge_core.configs.sizes import Headers
from merge_core.files.digests import fingerprint
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.inputs import TensorInput
from merge_core.tensors.names import group_of, kinds_of
from merge_core.tensors.safetensors_header import TensorEntry
from merge_core.tokenizers.embeddings import is_indexed_by_token
from merge_core.verification.ancestry import same_values

Copies = Mapping[str, str]
"""For each copy the tensor that it is a copy of."""


def tied_copies(checkpoints: Sequence[Checkpoint]) -> Copies:
    """The copies that all checkpoints agree in, found by their bytes.

    In every checkpoint the original is there, and the copy is missing or holds the same values.
    """
    names = dict.fromkeys(name for each in checkpoints for name in _candidates(each.tensors))
    copies: dict[str, str] = {}
    with BlockReader() as reader:
        for name in sorted(names, key=_rank):
            for origin in sorted(names, key=_rank):
                if origin == name or origin in copies:
                    continue
                if _rank(origin) < _rank(name) and all(
                    _agrees(each, origin, name, reader) for each in checkpoints
                ):
                    copies[name] = origin
                    break
    return MappingProxyType(copies)


def presumed_copies(headers: Headers, config: Mapping[str, Any]) -> frozenset[str]:
    """The copies of a checkpoint whose weights cannot be looked at yet, as its config says."""
    text = config.get("text_config")
    sections = (config, text) if isinstance(text, Mapping) else (config,)
    if not any(section.get("tie_word_embeddings") is True for section in sections):
        return frozenset()
    tables = [headers[name] for name in headers if _is_embedding(name)]
    return frozenset(
        name for name, it in headers.items() if group_of(name) == "head" and it in tables
    )


def could_hold_copies(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint has two tensors of one shape that a vocabulary indexes."""
    candidates = _candidates(checkpoint.tensors)
    alike = {
        (checkpoint.tensors[name].dtype, checkpoint.tensors[name].shape) for name in candidates
    }
    return len(alike) < len(candidates)


def with_copies(checkpoint: Checkpoint, copies: Copies, kept: Mapping[str, str]) -> Checkpoint:
    """A checkpoint with those copies that are kept, whether stored or not, and no others."""
    if not copies:
        return checkpoint
    tensors = {name: it for name, it in checkpoint.tensors.items() if name not in copies}
    tensors |= {
        name: checkpoint.tensors.get(name) or checkpoint.tensors[origin].called(name)
        for name, origin in kept.items()
    }
    order = {name: place for place, name in enumerate(checkpoint.tensors)}
    names = sorted(tensors, key=lambda name: order.get(name, order.get(copies.get(name, ""), 0)))
    return replace(checkpoint, tensors=MappingProxyType({name: tensors[name] for name in names}))


def _candidates(tensors: Mapping[str, TensorInput]) -> list[str]:
    kinds = kinds_of(tensors)
    indexed = {kind for kind in set(kinds) if is_indexed_by_token(kind)}
    return [name for name, kind in zip(tensors, kinds, strict=True) if kind in indexed]


def _rank(name: str) -> tuple[bool, str]:
    """Embeddings first, then by name: the first of several equal tensors is the original."""
    return not _is_embedding(name), name


def _is_embedding(name: str) -> bool:
    return group_of(name) == "embeddings"


def _agrees(checkpoint: Checkpoint, origin: str, name: str, reader: BlockReader) -> bool:
    first, second = checkpoint.tensors.get(origin), checkpoint.tensors.get(name)
    if first is None:
        return False
    if second is None:
        return True
    if (first.dtype, first.shape) != (second.dtype, second.shape) or not first.numel:
        return False
    if first.stored and second.stored:
        return _same_bytes(first.stored, second.stored, fingerprint(first.stored.path), reader)
    return first.stored is second.stored and same_values(first, second, reader)


def _same_bytes(first: TensorEntry, second: TensorEntry, seen: str, reader: BlockReader) -> bool:
    key = (first, second, seen, fingerprint(second.path))
    if key not in _compared:
        if len(_compared) > _MOST_REMEMBERED:
            _compared.clear()
        _compared[key] = same_values(first, second, reader)
    return _compared[key]


_MOST_REMEMBERED = 1024
_compared: dict[tuple[TensorEntry, TensorEntry, str, str], bool] = {}
"""Answers for unchanged files, kept because a merge is planned more than once."""
