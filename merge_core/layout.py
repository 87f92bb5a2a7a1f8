"""Where every output tensor goes: shards, headers, byte offsets, all before any is computed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from merge_core.checkpoint import INDEX_SUFFIX, MODEL_STEM, SUFFIX
from merge_core.dtypes import ITEM_SIZES

DEFAULT_SHARD_BYTES = 5_000_000_000
"""The Hub's customary shard size."""
_HEADER_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one output tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: int
    """Index of the shard."""
    offset: int
    """Absolute position of its first byte in the shard's file."""
    nbytes: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return self.nbytes // ITEM_SIZES[self.dtype]


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """One weight file: its name, its first bytes and its final size."""

    name: str
    header: bytes
    nbytes: int


def lay_out(
    tensors: Sequence[tuple[str, str, tuple[int, ...]]], shard_bytes: int, stem: str = MODEL_STEM
) -> tuple[list[Slot], tuple[PlannedShard, ...]]:
    """Place tensors (name, dtype code, shape) in shards of at most `shard_bytes` of data.

    The given order is kept, so that reads stay sequential, but for one thing: within a shard wider
    dtypes come first, which keeps every tensor aligned. A tensor larger than a shard has its own.
    Names of files begin with `stem`.
    """
    groups: list[list[tuple[str, str, tuple[int, ...]]]] = [[]]
    used = 0
    for tensor in tensors:
        nbytes = _nbytes(tensor)
        if groups[-1] and used + nbytes > shard_bytes:
            groups.append([])
            used = 0
        groups[-1].append(tensor)
        used += nbytes
    slots: list[Slot] = []
    shards = []
    for index, group in enumerate(groups):
        group.sort(key=lambda tensor: -ITEM_SIZES[tensor[1]])
        header = _header(group)
        position = len(header)
        for name, dtype, shape in group:
            nbytes = _nbytes((name, dtype, shape))
            slots.append(Slot(name, dtype, shape, index, position, nbytes))
            position += nbytes
        shards.append(PlannedShard(_shard_name(stem, index, len(groups)), header, position))
    return slots, tuple(shards)


def index_json(slots: Sequence[Slot], shards: Sequence[PlannedShard]) -> bytes:
    """The index of several shards, as the Hub, transformers and diffusers read it."""
    index = {
        "metadata": {"total_size": sum(slot.nbytes for slot in slots)},
        "weight_map": {slot.name: shards[slot.shard].name for slot in sorted(slots, key=_name)},
    }
    return (json.dumps(index, indent=2) + "\n").encode()


def index_name(shards: Sequence[PlannedShard]) -> str:
    """The name of the index of several shards."""
    return shards[0].name.rpartition("-00001-of-")[0] + INDEX_SUFFIX


def _name(slot: Slot) -> str:
    return slot.name


def _shard_name(stem: str, index: int, count: int) -> str:
    return f"{stem}{SUFFIX}" if count == 1 else f"{stem}-{index + 1:05}-of-{count:05}{SUFFIX}"


def _nbytes(tensor: tuple[str, str, tuple[int, ...]]) -> int:
    _, dtype, shape = tensor
    return math.prod(shape) * ITEM_SIZES[dtype]


def _header(group: Sequence[tuple[str, str, tuple[int, ...]]]) -> bytes:
    fields: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, dtype, shape in group:
        end = position + _nbytes((name, dtype, shape))
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
