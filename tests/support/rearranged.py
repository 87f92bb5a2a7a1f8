"""A model of transformers whose layers are rearranged in memory: what a stack of them must compute.

Nothing is taken from a merge here: modules are copied, told their new number, and the lists of the
config in memory, which classes read as they run, are rearranged likewise.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

_INDEX_LISTS = ("moe_layers", "mlp_only_layers", "full_attn_idxs", "attn_layer_indices")


def layers_of(model: Any, prefix: str) -> Any:
    """The layers whose tensors have this prefix; some classes save `model` as `backbone`."""
    found = model
    for part in prefix.split("."):
        found = getattr(found, part, None) or found.model
    return found


def rearranged(model: Any, prefix: str, order: Sequence[int]) -> Any:
    """The model with the layers of these numbers, in this order."""
    old = layers_of(model, prefix)
    depth = len(old)
    result = copy.deepcopy(model)
    layers = layers_of(result, prefix)
    layers_list = torch.nn.ModuleList([copy.deepcopy(layers[layer]) for layer in order])
    parent, _, name = prefix.rpartition(".")
    setattr(layers_of(result, parent), name, layers_list)
    for number, layer in enumerate(layers_list):
        for module in layer.modules():
            for attribute in ("layer_idx", "layer_id"):
                if hasattr(module, attribute):
                    setattr(module, attribute, number)
    seen: set[int] = set()
    for module in result.modules():
        config = getattr(module, "config", None)
        if config is not None and id(config) not in seen:
            seen.add(id(config))
            _rearrange(config, depth, order)
    return result


def _rearrange(config: Any, depth: int, order: Sequence[int]) -> None:
    for key, value in list(vars(config).items()):
        if key in _INDEX_LISTS and isinstance(value, list):
            changed: Any = [number for number, layer in enumerate(order) if layer in value]
        elif isinstance(value, list) and len(value) == depth:
            changed = [value[layer] for layer in order]
        elif key in ("num_hidden_layers", "n_layer", "num_layers") and value == depth:
            changed = len(order)
        else:
            continue
        vars(config)[key] = changed


def logits(model: Any, length: int = 20) -> torch.Tensor:
    """What a model says of one fixed text, without a cache: (length, vocabulary)."""
    tokens = torch.randint(3, 60, (1, length), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        extra = {} if "bert" in type(model).__name__.lower() else {"use_cache": False}
        return model(input_ids=tokens, **extra).logits[0]
