"""Numbers of layers and of experts that a config states and the tensors' names count."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial

from merge_core.configs.size_rules import Settings, all_stated, in_pairs, named, total, whole
from merge_core.configs.stacking.places import ALL_COUNTS, Path, extra_blocks
from merge_core.tensors.names import layer_counts

_EXPERT = re.compile(r"(?:^|\.)experts\.(\d+)\.")
_STACK = re.compile(r"(^|\.)(layers?|h|blocks?)$")
_OTHER_COUNTS = ("num_layers_per_stack", "block_sizes", "depth_coefficient")
"""Settings of models whose numbers of layers are not those of their stacks."""


def counted_wrong(
    names: Sequence[str], config: Settings, parts: Sequence[tuple[Path, Settings]]
) -> Iterator[str]:
    """The number of layers and of experts, where the names count them."""
    if any(key in part for _, part in parts for key in _OTHER_COUNTS):
        parts = []
    extra = {0, *extra_blocks(config).values()}
    stacks = {key: value for key, value in layer_counts(names).items() if _STACK.search(key)}
    several = len({_side(prefix) for prefix in stacks} - {None}) > 1
    sides: dict[str | None, tuple[str, int]] = {}
    for prefix, layers in stacks.items():
        side = _side(prefix) if several else None
        sides[side] = max(sides.get(side, (prefix, layers)), (prefix, layers), key=lambda it: it[1])
    for side, (prefix, layers) in sides.items():
        counts = all_stated(parts, partial(_layers_of, side))
        if counts and all(layers - count not in extra for _, count in counts):
            yield f"{prefix} has {layers} layers, and it says {in_pairs(counts)}"
    experts = [int(match[1]) for name in names if (match := _EXPERT.search(name))]
    stated = all_stated(parts, experts_stated)
    if experts and stated and all(max(experts) + 1 != value for _, value in stated):
        yield f"the names count {max(experts) + 1} experts, and it says {in_pairs(stated)}"


def _side(prefix: str) -> str | None:
    """Which of two stacks of an encoder-decoder this is."""
    return next((side for side in ("decoder", "encoder") if side in prefix), None)


def _layers_of(side: str | None, part: Settings) -> dict[str, int]:
    """What may count the layers of a stack."""
    keys = sorted(ALL_COUNTS)
    if side is not None:
        own = [key for key in keys if side in key and key in part]
        keys = own or [key for key in keys if "coder" not in key]
    return {key: value for key in keys if (value := whole(part.get(key))) is not None}


def experts_stated(part: Settings) -> dict[str, int]:
    """Numbers of experts, by the settings that state them."""
    skipped = re.compile(r"per_tok|topk|top_k|size|shared|group|interval|layer|dim|freq|step|idx")
    keys = [key for key in part if "expert" in key and not skipped.search(key)]
    stated = named(part, *keys)
    for key in keys:
        values = part.get(key)
        if isinstance(values, list) and all(whole(value) for value in values):
            stated[f"{key} together"] = sum(values)
    return stated | total("n_routed_experts", "zero_expert_num")(part)
