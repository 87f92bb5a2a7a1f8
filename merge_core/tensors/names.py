"""Layer indices and groups read from tensor names, for any architecture.

A layer is the first whole number between dots: `model.layers.3.mlp.up_proj.weight` is layer 3 of
the stack `model.layers`. Tensors without one (embeddings, final norm, head) belong to no layer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Literal

Group = Literal["embeddings", "attention", "mlp", "norms", "head", "other"]

_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_ANY = "surrogatepass"
_LAYER = re.compile(r"\.(\d+)(?:\.|$)")
_GROUPS: tuple[tuple[Group, re.Pattern[str]], ...] = (
    ("norms", re.compile(r"(norm|layrnorm|(^|\.)ln_)[^.]*\.[^.]+$", re.I)),
    (
        "head",
        re.compile(
            r"(^|\.)([^.]*lm_head|classifier|pre_classifier|score|cls|embed_out|qa_outputs"
            r"|vocab_(projector|transform))(\.|$)"
            r"|^((model|transformer)\.)?output(_layer)?\.(weight|bias)$|^(proj_out|predictions|head)\."
            r"|^decoder\.(weight|bias)$"
        ),
    ),
    ("attention", re.compile(r"(^|\.)[^.]*(attn|attention)\d*(\.|$)", re.I)),
    (
        "mlp",
        re.compile(
            r"(^|\.)([^.]*mlp|[^.]*moe|feed_?forward|ffn?|ffn_[^.]*|experts?|shared_experts?|router"
            r"|intermediate|output|fc(\d|_in|_out)|DenseReluDense|DenseGatedActDense)(\.|$)",
            re.I,
        ),
    ),
    ("embeddings", re.compile(r"embed|(^|\.)(wte|wpe|shared\.weight)", re.I)),
)
"""The first pattern that is found decides: a norm within attention is a norm."""


def layer_of(name: str) -> int | None:
    """Index of the layer a tensor belongs to, or None."""
    match = _LAYER.search(name)
    return int(match[1]) if match else None


def stack_of(name: str) -> tuple[str, int] | None:
    """The stack's prefix and the layer's index: (`model.layers`, 3), or None."""
    match = _LAYER.search(name)
    return (name[: match.start()], int(match[1])) if match else None


def layer_counts(names: Iterable[str]) -> dict[str, int]:
    """Number of layers of each stack: the highest index plus one."""
    counts: dict[str, int] = {}
    for name in names:
        stack = stack_of(name)
        if stack:
            counts[stack[0]] = max(counts.get(stack[0], 0), stack[1] + 1)
    return counts


def depths_of(names: Sequence[str]) -> list[float | None]:
    """Position of each tensor in its stack from 0 (first layer) to 1 (last), as mergekit counts it.

    Args:
        names: of all tensors of a model, which tell how many layers there are.

    Returns:
        One for each name: None outside the layers; 1 for the only layer of a stack of one.
    """
    stacks = [stack_of(name) for name in names]
    layers: dict[str, int] = {}
    for stack in stacks:
        if stack is not None and layers.get(stack[0], -1) < stack[1]:
            layers[stack[0]] = stack[1]
    return [
        None if stack is None else stack[1] / last if (last := layers[stack[0]]) else 1.0
        for stack in stacks
    ]


def kind_of(name: str) -> str:
    """A tensor's name with every digit a 0.

    A model of many layers and experts has few kinds, so what holds for a kind is found out once.
    """
    # Ten times as fast as `str.translate`; UTF-8 has no digits in other characters.
    return name.encode(errors=_ANY).translate(_ZEROS).decode(errors=_ANY)


def kinds_of(names: Collection[str]) -> list[str]:
    """The kind of each name: as `kind_of`, many times as fast for many names."""
    kinds = kind_of("\n".join(names)).split("\n")
    # A name with a line break in it is a stranger's, and makes more lines than there are names.
    return kinds if len(kinds) == len(names) else [kind_of(name) for name in names]


def group_of(name: str) -> Group:
    """The kind of tensor: embeddings, attention, mlp, norms, head or other."""
    return _group_of_kind(kind_of(name))


@lru_cache(maxsize=4096)
def _group_of_kind(name: str) -> Group:
    for group, pattern in _GROUPS:
        if pattern.search(name):
            return group
    return "other"
