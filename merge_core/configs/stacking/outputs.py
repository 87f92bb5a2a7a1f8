"""Settings of a multimodal config that say whose output of a tower the text model is given.

They stand beside the tower's part and count hidden states: 0 is what enters the first layer, n the
output of the n-th, -1 that of the last. After layers have moved they mean the same layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from merge_core.configs.stacking.places import is_whole
from merge_core.errors import CompatibilityError

_KEYS = ("vision_feature_layer", "vision_feature_layers", "vision_select_layer")


def follow_outputs(
    config: dict[str, Any], layers: Sequence[int], depth: int, where: str, donor: str
) -> None:
    """Let a stacked tower's outputs be taken where the same layers' were taken before.

    Args:
        config: the result's; it is changed.
        layers: for each layer of the result, its number in the donor.
        depth: how many layers the donor has.
        where: YAML path of the slices.
        donor: the reference of the model whose config it was.

    Raises:
        CompatibilityError: such a layer was left out, or is there several times.
    """
    for key in _KEYS:
        value = config.get(key)
        numbers: list[Any] = value if isinstance(value, list) else [value]
        if not all(is_whole(each) for each in numbers):
            continue
        moved = [_moved(key, each, layers, depth, where, donor) for each in numbers]
        config[key] = moved if isinstance(value, list) else moved[0]


def _moved(key: str, number: int, layers: Sequence[int], depth: int, where: str, donor: str) -> int:
    count = len(layers)
    if number in (0, -depth - 1):
        return 0 if number == 0 else -count - 1
    taken = number - 1 if number > 0 else depth + number
    there = number - 1 if number > 0 else count + number
    if 0 <= there < count and layers[there] == taken:
        return number
    found = [place for place, layer in enumerate(layers) if layer == taken]
    if len(found) != 1:
        how = "several times" if found else "not"
        raise CompatibilityError(
            f"the text model is given the output of layer {taken} ({key}: {number} in the"
            f" config.json of {donor}), which is {how} among the stacked layers",
            where=where,
            mend=f"choose ranges that have layer {taken} once",
        )
    return found[0] + 1 if number > 0 else found[0] - count
