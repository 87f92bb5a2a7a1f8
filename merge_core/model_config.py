"""config.json of a result: the donor's, with what the merge changed."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from merge_core.errors import CompatibilityError
from merge_core.expansion import output_layers
from merge_core.recipe import Recipe
from merge_core.recipe_parts import Section

_LAYER_COUNT_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_DTYPE_KEYS = ("dtype", "torch_dtype")
_QUANTISATION_KEYS = ("quantization_config", "compression_config")
DIFFUSERS_KEY = "_class_name"
"""In the config of every model of diffusers, and of no other."""
_SECTIONS = ((), ("text_config",))
_MODULE_STACKS: tuple[tuple[str, tuple[tuple[str, ...], ...], tuple[str, ...]], ...] = (
    ("vision", (("vision_config",),), (*_LAYER_COUNT_KEYS, "depth")),
    ("visual", (("vision_config",),), (*_LAYER_COUNT_KEYS, "depth")),
    ("audio", (("audio_config",),), _LAYER_COUNT_KEYS),
    ("text", _SECTIONS, _LAYER_COUNT_KEYS),
    ("decoder", ((),), ("decoder_layers", "num_decoder_layers")),
    ("encoder", ((),), ("encoder_layers", "num_encoder_layers", *_LAYER_COUNT_KEYS)),
    ("", _SECTIONS, _LAYER_COUNT_KEYS),
)
"""A word in a module's name, where its number of layers is in a config, and under what key."""


def merged_config(
    recipe: Recipe, configs: Mapping[str, Mapping[str, Any]], dtype: str
) -> dict[str, Any]:
    """The result's config; empty when the donor has none.

    Args:
        configs: config.json of each of `recipe.references()`.
        dtype: torch's name of what most weights are stored in.

    Raises:
        CompatibilityError: a model's config does not cover a layer that is taken from it.
    """
    config = _stacked(recipe, dict(configs))
    if not config:
        return config
    _unquantise(config)
    named = [key for key in _DTYPE_KEYS if key in config]
    config |= dict.fromkeys(named or ([] if DIFFUSERS_KEY in config else ["dtype"]), dtype)
    if recipe.stored_dtype:
        for section in config.values():
            if isinstance(section, dict):
                section |= dict.fromkeys([key for key in _DTYPE_KEYS if key in section], dtype)
    return config


def _stacked(recipe: Recipe, configs: dict[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The donor's config, with the layers of the result; recipes used by name come first."""
    for earlier in recipe.recipes:
        configs[str(earlier.name)] = _stacked(earlier, configs)
    config = copy.deepcopy(dict(configs[recipe.direct_references()[0]]))
    for section in recipe.sections:
        if section.stacked and config:
            _restack(config, section, configs)
    return config


def _restack(
    config: dict[str, Any], stacked: Section, configs: Mapping[str, Mapping[str, Any]]
) -> None:
    """Give the config the number of layers of the result, and each layer its source's settings.

    A list with one item for each layer (transformers' `layer_types`) is stacked as the layers are.
    """
    layers = output_layers(stacked)
    paths, keys = next(
        (paths, keys) for word, paths, keys in _MODULE_STACKS if word in (stacked.module or "")
    )
    for path in paths:
        section = _at(config, path)
        count_key = next((key for key in keys if key in section), None)
        if count_key is None:
            continue
        before = section[count_key]
        for key, value in section.items():
            if isinstance(value, list) and len(value) == before > 1:
                section[key] = [
                    _of_layer(reference, configs, path, key, layer, value)
                    for reference, layer in layers
                ]
        section[count_key] = len(layers)
        return


def _of_layer(
    reference: str,
    configs: Mapping[str, Mapping[str, Any]],
    path: tuple[str, ...],
    key: str,
    layer: int,
    donors: list[Any],
) -> Any:
    """What a model's config says of one of its layers; the donor's where it says nothing."""
    own = _at(configs[reference], path).get(key)
    values = donors if own is None else own
    if not isinstance(values, list) or layer >= len(values):
        raise CompatibilityError(
            f"config.json does not say the {key} of layer {layer}",
            where=reference,
            mend=f"give it a list {key} with an item for each of its layers",
        )
    return values[layer]


def _unquantise(config: dict[str, Any]) -> None:
    """Take out settings of a quantisation: merged weights are plain, whatever the donor's were."""
    for section in (config, config.get("text_config")):
        if isinstance(section, dict):
            for key in _QUANTISATION_KEYS:
                section.pop(key, None)


def _at(config: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    section: Any = config
    for key in path:
        section = section.get(key, {})
    return section if isinstance(section, dict) else {}


def config_text(config: Mapping[str, Any]) -> str:
    """A config as it is written."""
    return json.dumps(config, indent=2) + "\n"
