"""What a config says of each layer of a stack: by rules, by lists of layers, by an item for each,
or by a map of the layers that differ.

Also what it may say in a way that is not understood here: a setting whose name speaks of layers,
periods or windows and that no rule reads.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from merge_core.configs.stacking.places import ALL_COUNTS, is_whole
from merge_core.configs.stacking.rules import (
    BY_NUMBER,
    LAYER_TYPES,
    RULES,
    UNIFORM_WINDOWS,
    Kinds,
    Settings,
)

INDEX_LISTS = frozenset(
    {
        *("attn_layer_indices", "full_attn_idxs", "hybrid_layer_ids", "cross_attention_layers"),
        *("local_layer_ids", "rope_scaling_layers", "fullatt_block_indexes", "slstm_at"),
        *("window_block_indices", "global_attention_layers", "moe_layer_indices"),
    }
)
"""Settings that list the numbers of the layers of one kind, from 0."""
_ITEM_LISTS = frozenset(
    {
        *("layers_block_type", "mlp_layer_types", "attention_layers", "attn_type_list"),
        *("hybrid_layer_pattern", "moe_layer_freq", "block_configs", "indexer_types"),
    }
)
"""Settings that have an item for each layer, and may have more of them."""
_NO_ITEMS = re.compile(
    r"token|mtp|nextn|architectures|ignore|_limit$|_range$|section|stage|^out_|feature_layer|labels?$"
    r"|^(ssm|mlp)_multipliers$|_std$|_mean$|pooling"
)
"""Settings that are lists of another kind, whose length may be the number of layers by chance."""
_RULE_KEYS = frozenset(key for rule in RULES for key in rule.keys)
_OF_LAYERS = re.compile(
    r"layer|block|depth|every|interval|period|offset|pattern|sparse_step|_freq$|first_k"
    r"|_ind(ex|ices|exes)$|_idxs?$|alternat|interleav|skip"
)
"""In the name of a setting that may mean another layer once layers have moved."""
_HARMLESS = re.compile(
    r"norm|drop|layer_?scale|init|block_(size|len|multiple|auto|ff|dim|use|mlp|out|in|bias|act)"
    r"|per_layer_input|feature_layer|mtp|nextn|_pred_|ignore_index|multiplier|rescale_every"
    r"|use_weighted_layer_sum|depth_mult|num_hidden_groups|block_type$"
    r"|moe_block$|inner_group_num|temperature|token|position|rope_scaling|attention_chunk"
    r"|adapter|random_blocks|^index_(local|topk|init)_blocks|^(mask|unk)_index$"
)
_WINDOWS = (
    *("sliding_window", "attention_window", "attention_window_size", "window_size"),
    *("sliding_window_size", "attention_chunk_size", "local_attention", "local_window_size"),
)
_TYPE_LISTS = (LAYER_TYPES, "layers_block_type", "attention_layers", "hybrid_layer_pattern")
_NEUTRAL_ONE = re.compile(r"period|interval|every|freq|step|pattern|skip")


def told(settings: Settings, layers: int, model_type: str) -> dict[str, Kinds]:
    """What settings say of each of so many layers, by the name of the setting or rule."""
    found = {}
    for rule in RULES:
        kinds = rule.read(settings, layers, model_type)
        if kinds is not None and len(kinds) == layers:
            found[rule.name] = kinds
    for key, value in settings.items():
        if isinstance(value, list) and key not in _RULE_KEYS:
            if is_index_list(key, value):
                found[key] = [layer in value for layer in range(layers)]
            elif is_item_list(key, value, layers):
                found[key] = value[:layers]
        elif is_map_by_layer(key, value, layers):
            single = {int(number): settings for number, settings in value.items()}
            found[key] = [single.get(layer) for layer in range(layers)]
    return found


def is_index_list(key: str, value: Any) -> bool:
    """Whether a setting lists the numbers of layers."""
    return key in INDEX_LISTS and isinstance(value, list) and all(is_whole(item) for item in value)


def is_map_by_layer(key: str, value: Any, layers: int) -> bool:
    """Whether a setting holds what is different in single layers, by their numbers."""
    if not isinstance(value, dict) or not value or not re.search(r"layer|block", key):
        return False
    return all(
        number.isdecimal() and int(number) < layers and isinstance(settings, dict)
        for number, settings in value.items()
    )


def is_item_list(key: str, value: list[Any], layers: int) -> bool:
    """Whether a setting has an item for each of so many layers."""
    if key in _ITEM_LISTS:
        return len(value) >= layers
    if len(value) != layers or layers < 2 or _NO_ITEMS.search(key):
        return False
    return not (_OF_LAYERS.search(key) and _are_numbers_of_layers(value, layers))


def not_understood(settings: Settings, layers: int, model_type: str) -> Iterator[str]:
    """Settings that may mean another layer once layers have moved, and that no rule reads."""
    read = told(settings, layers, model_type)
    for key, value in settings.items():
        if key in read or key in _RULE_KEYS or key in ALL_COUNTS or key in INDEX_LISTS:
            continue
        if isinstance(value, dict) and key.endswith("config") and not _is_by_number(value):
            continue
        if _OF_LAYERS.search(key) and not _HARMLESS.search(key) and not _is_neutral(key, value):
            yield key
    for rule in RULES:
        if rule.name not in read:
            yield from (key for key in sorted(rule.keys) if _may_say(key, settings))
    if not any(key in read for key in _TYPE_LISTS) and "no_rope_layers" not in read:
        yield from _windows(settings, model_type, read)


def computes_with_number(settings: Settings, model_type: str) -> bool:
    """Whether a layer computes something else under another number, whatever the settings say."""
    if model_type not in BY_NUMBER:
        return False
    switch = BY_NUMBER[model_type]
    return switch is None or bool(settings.get(switch))


def _may_say(key: str, settings: Settings) -> bool:
    """Whether a setting that some rule reads says something where that rule does not apply."""
    if key in ("sliding_window", "use_sliding_window"):
        return False  # of which layers it is, is asked apart
    if key == "max_window_layers" and not settings.get("use_sliding_window"):
        return False
    return not _is_neutral(key, settings.get(key))


def _windows(settings: Settings, model_type: str, read: Collection[str]) -> Iterator[str]:
    """Windows of which it is not told which layers they are for."""
    if settings.get("use_sliding_window") is False or model_type in UNIFORM_WINDOWS:
        return
    yield from (key for key in _WINDOWS if settings.get(key) and key not in read)


def _are_numbers_of_layers(value: list[Any], layers: int) -> bool:
    """Whether whole numbers, not all the same, may be those of layers, from 0 or from 1."""
    if not all(is_whole(item) for item in value):
        return False
    if len(set(value)) == 1 or set(value) <= {0, 1}:
        return False
    return all(0 <= item <= layers for item in value)


def _is_by_number(value: dict[str, Any]) -> bool:
    """Whether the keys of a part of a config are numbers."""
    return bool(value) and all(key.isdecimal() for key in value)


def _is_neutral(key: str, value: Any) -> bool:
    """Whether a setting says nothing of any layer."""
    if value is None or value in ("", [], {}) or value is False:
        return True
    if value is True:
        return re.search(r"layer_(idx|ind|id|num)|every|alternat|interleaved?_.*layer", key) is None
    if value == 1 and _NEUTRAL_ONE.search(key):
        return True
    return value == 0 and re.search(r"idx|ind|id$|offset|start|first|last", key) is None
