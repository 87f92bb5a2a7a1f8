"""config.json of a result: the donor's, with what the merge changed."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from merge_core.checkpoints.checkpoint import Checkpoint
from merge_core.configs.stacking import extra_blocks, ordinary_layers, stacked_config
from merge_core.planning.expansion import stack_in
from merge_core.recipes.recipe import Recipe
from merge_core.tensors.names import layer_counts
from merge_core.verification.class_comparison import with_class_of

_DTYPE_KEYS = ("dtype", "torch_dtype")
_QUANTISATION_KEYS = ("quantization_config", "compression_config")
_TIES = "tie_word_embeddings"
DIFFUSERS_KEY = "_class_name"
"""In the config of every model of diffusers, and of no other."""


def result_config(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> dict[str, Any]:
    """The donor's config, with the layers of the result; empty where the donor has none.

    Args:
        checkpoints: one for each of `recipe.direct_references()`; recipes used by name come with
            the config of their result.

    Raises:
        CompatibilityError: see `stacked_config`.
    """
    references = recipe.direct_references()
    donor = checkpoints[references[0]]
    config = copy.deepcopy(dict(donor.config))
    configs = {reference: checkpoints[reference].config for reference in references}
    for section in recipe.sections:
        if section.stacked and config:
            config = stacked_config(config, stack_in(section, references[0], checkpoints), configs)
            _leave_out_extra_blocks(config, donor)
    if config and any(checkpoints[reference].parted for reference in references):
        _untie(config)
    return with_class_of(config, configs) if config else config


def merged_config(config: Mapping[str, Any], dtype: str, *, stored: bool = False) -> dict[str, Any]:
    """The result's config with the dtype of its weights; empty when the donor has none.

    Args:
        config: of `result_config`.
        dtype: torch's name of what most weights are stored in.
        stored: the recipe asks for this dtype, so every part of the model has it.
    """
    result = copy.deepcopy(dict(config))
    if not result:
        return result
    _unquantise(result)
    named = [key for key in _DTYPE_KEYS if key in result]
    result |= dict.fromkeys(named or ([] if DIFFUSERS_KEY in result else ["dtype"]), dtype)
    if stored:
        _state_dtype(result, dtype)
    return result


def _state_dtype(section: dict[str, Any], dtype: str) -> None:
    """Write a dtype wherever a config states one, in parts of its parts too."""
    section |= dict.fromkeys([key for key in _DTYPE_KEYS if key in section], dtype)
    for part in section.values():
        if isinstance(part, dict):
            _state_dtype(part, dtype)


def _untie(config: dict[str, Any]) -> None:
    """Say that head and embeddings are two tensors, where the config says that they are one.

    Libraries that go by the config alone would take the embeddings for both, and drop the head.
    """
    text = config.get("text_config")
    sections = [config, text] if isinstance(text, dict) else [config]
    if any(section.get(_TIES) is True for section in sections):
        for section in sections:
            section[_TIES] = False


def _unquantise(config: dict[str, Any]) -> None:
    """Take out settings of a quantisation: merged weights are plain, whatever the donor's were."""
    for section in (config, config.get("text_config")):
        if isinstance(section, dict):
            for key in _QUANTISATION_KEYS:
                section.pop(key, None)


def config_text(config: Mapping[str, Any]) -> str:
    """A config as it is written."""
    return json.dumps(config, indent=2) + "\n"


def _leave_out_extra_blocks(config: dict[str, Any], donor: Checkpoint) -> None:
    """Say that there are no blocks which predict further tokens, where those were numbered like
    layers: a stack has none of them."""
    counts = layer_counts(donor.tensors).values()
    if all(ordinary_layers(donor.config, count) == count for count in counts):
        return
    for path, key in extra_blocks(donor.config):
        section: Any = config
        for part in path:
            section = section[part]
        section[key] = 0
