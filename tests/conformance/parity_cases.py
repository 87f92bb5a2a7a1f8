"""The checkpoints and recipes on which this project and mergekit must agree.

Read by `benchmarks/parity/make_expected.py` in mergekit's own environment and by
`test_mergekit_parity.py`, so it needs torch, numpy and safetensors only. The checkpoints are made
from integers of numpy's frozen `RandomState` stream: the same bits on every platform and version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

HIDDEN, MLP, VOCABULARY, HEADS, KEY_VALUE_HEADS, LAYERS = 8, 16, 24, 2, 1, 3
MODELS = ("base", "a", "b", "c")
"""A base and three fine-tunes of it, float32, with every kind of tensor that a Llama has."""
SINGLE = ("base-1", "a-1", "b-1")
"""The same with one layer."""
HALF = ("base-16", "a-16", "b-16")
"""The same in bfloat16."""


_FROZEN = {
    1: ("model.layers.1.self_attn.k_proj.weight",),
    3: ("model.layers.1.self_attn.k_proj.weight", "model.norm.weight"),
}
"""What model 1 (`a`) and model 3 (`c`) leave as it was."""


def write_parity_checkpoints(root: Path) -> str:
    """Write every checkpoint under `root`; returns one sha256 over all their values."""
    digest = hashlib.sha256()
    for names, layers, dtype in (
        (MODELS, LAYERS, torch.float32),
        (SINGLE, 1, torch.float32),
        (HALF, LAYERS, torch.bfloat16),
    ):
        for index, name in enumerate(names):
            tensors = {
                key: torch.from_numpy(value).to(dtype)
                for key, value in _tensors(index, layers).items()
            }
            for key, tensor in tensors.items():
                digest.update(f"{name} {key} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.view(torch.uint8).numpy().tobytes())
            (root / name).mkdir(parents=True)
            save_file(tensors, root / name / "model.safetensors", metadata={"format": "pt"})
            config = llama_config(layers, str(dtype).removeprefix("torch."))
            (root / name / "config.json").write_text(json.dumps(config))
    return digest.hexdigest()


def _shapes(layers: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    narrow = HIDDEN * KEY_VALUE_HEADS // HEADS
    for layer in range(layers):
        place = f"model.layers.{layer}"
        shapes |= {
            f"{place}.input_layernorm.weight": (HIDDEN,),
            f"{place}.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            f"{place}.self_attn.k_proj.weight": (narrow, HIDDEN),
            f"{place}.self_attn.v_proj.weight": (narrow, HIDDEN),
            f"{place}.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            f"{place}.post_attention_layernorm.weight": (HIDDEN,),
            f"{place}.mlp.gate_proj.weight": (MLP, HIDDEN),
            f"{place}.mlp.up_proj.weight": (MLP, HIDDEN),
            f"{place}.mlp.down_proj.weight": (HIDDEN, MLP),
        }
    return shapes | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}


def _tensors(model: int, layers: int) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Model 0 is the base; the others differ from it by more and more, but for frozen tensors."""
    tensors = {}
    for index, (name, shape) in enumerate(_shapes(layers).items()):
        value = 0.4 * _bell(1000 + index, shape)
        if len(shape) == 1:
            value = 1.0 + 0.2 * value
        if model and name not in _FROZEN.get(model, ()):
            value = value + 0.03 * (1 + model) * _bell(1000 * (1 + model) + index, shape)
        tensors[name] = value.astype(np.float32)
    return tensors


def _bell(seed: int, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """About normally distributed: sums of uniform integers, exact in float64."""
    draws = np.random.RandomState(seed).randint(0, 1 << 30, size=(12, *shape))
    return draws.sum(axis=0) / float(1 << 30) - 6.0


def llama_config(layers: int, dtype: str) -> dict[str, object]:
    """config.json of the checkpoints."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "head_dim": HIDDEN // HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _entry(model: str, **parameters: object) -> dict[str, object]:
    return {"model": model, "parameters": parameters}


def _recipe(
    method: str, *models: dict[str, object], base: str | None = None, **parameters: object
) -> dict[str, Any]:
    recipe: dict[str, Any] = {"merge_method": method, "models": list(models), "dtype": "float32"}
    if base:
        recipe["base_model"] = base
    if parameters:
        recipe["parameters"] = parameters
    return recipe


def _sliced(
    method: str, *slices: dict[str, object], base: str | None = None, **parameters: object
) -> dict[str, Any]:
    recipe = _recipe(method, base=base, **parameters)
    del recipe["models"]
    return recipe | {"slices": list(slices)}


def _slice(*sources: dict[str, object], **parameters: object) -> dict[str, object]:
    return {"sources": list(sources), **({"parameters": parameters} if parameters else {})}


def _layers(model: str, first: int, end: int, **parameters: object) -> dict[str, object]:
    return {**_entry(model, **parameters), "layer_range": [first, end]}


def _three(**parameters: object) -> list[dict[str, object]]:
    """The three fine-tunes with unequal weights, one of them negative."""
    weights = (0.6, 0.45, -0.25)
    return [_entry(name, weight=w, **parameters) for name, w in zip("abc", weights, strict=True)]


_T = [
    {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
    {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
    {"value": 0.4},
]
"""The gradients of the best known SLERP recipes."""
_SOME_T = [{"filter": "norm", "value": 1.0}, {"filter": "*", "value": [0.1, 0.6]}]
_BY_PART = [
    {"filter": "mlp", "value": [0.2, 0.9]},
    {"filter": "norm", "value": 1.0},
    {"value": 0.5},
]
_BY_PART_T = [{"filter": "mlp", "value": [0.002, 0.03]}, {"value": 0.01}]
_SOME = [
    {"filter": "self_attn.o_proj", "value": 0.0},
    {"filter": "layers.1", "value": [-0.6, 0.8]},
    {"filter": "embed", "value": 1.2},
]
"""Filters that some tensors fall through, to the next level or the default."""

CASES: Mapping[str, dict[str, Any]] = {
    "linear": _recipe("linear", *_three()),
    "linear-not-normalized": _recipe("linear", *_three(), normalize=False),
    "linear-gradients": _recipe(
        "linear", _entry("a", weight=[0.1, 0.9, 0.2]), _entry("b", weight=[1.0, 0.0])
    ),
    "linear-filters": _recipe("linear", _entry("a", weight=_BY_PART), _entry("b", weight=0.3)),
    "linear-base-listed": _recipe(
        "linear", _entry("base", weight=0.2), _entry("a", weight=0.8), base="base"
    ),
    "linear-one-layer": _recipe(
        "linear", _entry("a-1", weight=[0.0, 0.7]), _entry("b-1", weight=1)
    ),
    "linear-bfloat16": _recipe("linear", _entry("a-16", weight=0.3), _entry("b-16", weight=0.5)),
    "passthrough": _recipe("passthrough", _entry("a")),
    "passthrough-scale": _recipe("passthrough", _entry("a", scale=[-1.5, 0.5])),
    "passthrough-filters": _recipe("passthrough", _entry("a", scale=_SOME), scale=0.3),
    "slerp": _recipe("slerp", _entry("a"), base="base", t=0.35),
    "slerp-gradients": _recipe("slerp", _entry("base"), _entry("c"), base="base", t=_T),
    "slerp-base-listed-last": _recipe("slerp", _entry("a"), _entry("base"), base="base", t=_SOME_T),
    "nuslerp": _recipe("nuslerp", _entry("a", weight=0.3), _entry("b", weight=0.5)),
    "nuslerp-gradients": _recipe(
        "nuslerp", _entry("a", weight=[0.2, 0.9]), _entry("b", weight=_BY_PART)
    ),
    "nuslerp-task-vectors": _recipe(
        "nuslerp", _entry("a", weight=0.3), _entry("b", weight=0.5), base="base"
    ),
    "nuslerp-negative": _recipe(
        "nuslerp", _entry("a", weight=-0.2), _entry("b", weight=0.9), base="base"
    ),
    "nuslerp-rows": _recipe(
        "nuslerp", _entry("a", weight=0.3), _entry("b", weight=0.5), base="base",
        nuslerp_flatten=False,
    ),
    "nuslerp-columns": _recipe(
        "nuslerp", _entry("a", weight=0.3), _entry("b", weight=0.5),
        nuslerp_flatten=False, nuslerp_row_wise=True,
    ),
    "nuslerp-weights-cancel": _recipe(
        "nuslerp", _entry("a", weight=0.3), _entry("c", weight=-0.3), base="base"
    ),
    "multislerp": _recipe("multislerp", *_three()),
    "multislerp-task-vectors": _recipe("multislerp", *_three(), base="base"),
    "multislerp-not-normalized": _recipe(
        "multislerp", *_three(), base="base", normalize_weights=False
    ),
    "multislerp-gradients": _recipe(
        "multislerp", _entry("a", weight=[0.2, 1.0]), _entry("b", weight=_SOME), base="base",
        weight=0.7, eps=1e-6,
    ),
    "karcher": _recipe("karcher", _entry("a"), _entry("b"), _entry("c")),
    "karcher-settings": _recipe("karcher", _entry("base"), _entry("c"), max_iter=3, tol=1e-4),
    "task_arithmetic": _recipe("task_arithmetic", *_three(), base="base"),
    "task_arithmetic-lambda": _recipe(
        "task_arithmetic", *_three(), base="base", normalize=True, **{"lambda": [0.3, 1.2]}
    ),
    "task_arithmetic-filters": _recipe(
        "task_arithmetic", _entry("base"), _entry("a", weight=_BY_PART), _entry("b"), base="base",
        weight=[0.9, 0.1, 0.4],
    ),
    "task_arithmetic-weights-cancel": _recipe(
        "task_arithmetic", _entry("a", weight=0.5), _entry("b", weight=-0.5), base="base",
        normalize=True,
    ),
    "task_arithmetic-fall-through": _recipe(
        "task_arithmetic", _entry("a", weight=_SOME), _entry("b", weight=-1.0), base="base",
        weight=_BY_PART, **{"lambda": _SOME},
    ),
    "task_arithmetic-one-layer": _recipe(
        "task_arithmetic", _entry("a-1", weight=[0.2, 0.8]), _entry("b-1", weight=[0.5, -1.0, 0.3]),
        base="base-1",
    ),
    "task_arithmetic-bfloat16": _recipe(
        "task_arithmetic", _entry("a-16", weight=0.3), _entry("b-16", weight=0.5), base="base-16"
    ),
    "ties": _recipe(
        "ties", _entry("a", weight=0.6, density=0.3), _entry("b", weight=0.4, density=0.5),
        _entry("c", weight=0.3, density=0.8), base="base",
    ),
    "ties-density-one": _recipe("ties", *_three(), base="base"),
    "ties-gradients": _recipe(
        "ties", _entry("a", weight=1, density=[1.0, 0.3, 0.1]), _entry("b", weight=[0.2, 0.7]),
        base="base", density=_BY_PART,
    ),
    "ties-rescale": _recipe(
        "ties", *_three(density=0.4), base="base", rescale=True, normalize=False,
        **{"lambda": 0.8},
    ),
    "ties-small-density": _recipe("ties", *_three(density=0.01), base="base", normalize=False),
    "ties-density-zero": _recipe(
        "ties", _entry("a", weight=1, density=0.0), _entry("b", weight=1, density=0.5), base="base"
    ),
    "ties-int8-mask": _recipe("ties", *_three(density=0.5), base="base", int8_mask=True),
    "ties-lambda-filters": _recipe(
        "ties", *_three(density=0.35), base="base", normalize=False, **{"lambda": _BY_PART}
    ),
    "dare_linear-gradients": _recipe(
        "dare_linear", _entry("a", weight=[0.3, -0.8]), _entry("b", weight=_SOME), base="base",
        weight=0.2, normalize=True,
    ),
    "dare_linear-density-zero": _recipe("dare_linear", *_three(density=0.0), base="base"),
    "dare_linear-density-one": _recipe("dare_linear", *_three(), base="base"),
    "dare_ties-density-one": _recipe("dare_ties", *_three(), base="base", **{"lambda": 1.1}),
    "breadcrumbs": _recipe("breadcrumbs", *_three(density=0.6, gamma=0.1), base="base"),
    "breadcrumbs-gradients": _recipe(
        "breadcrumbs", _entry("a", weight=1, density=[0.9, 0.4], gamma=[0.02, 0.3]),
        _entry("b", weight=-0.4, density=_BY_PART), base="base", normalize=True, rescale=True,
    ),
    "breadcrumbs-gamma-zero": _recipe("breadcrumbs", *_three(density=0.5, gamma=0.0), base="base"),
    "breadcrumbs-gamma-too-large": _recipe(
        "breadcrumbs", *_three(density=0.8, gamma=0.5), base="base"
    ),
    "breadcrumbs-density-zero": _recipe("breadcrumbs", *_three(density=0.0), base="base"),
    "breadcrumbs_ties": _recipe(
        "breadcrumbs_ties", *_three(density=0.7, gamma=0.05), base="base", **{"lambda": 0.9}
    ),
    "breadcrumbs_ties-normalize": _recipe(
        "breadcrumbs_ties", *_three(density=0.5, gamma=0.2), base="base",
        normalize=True, rescale=True,
    ),
    "breadcrumbs_ties-gradients": _recipe(
        "breadcrumbs_ties", _entry("a", weight=_SOME, gamma=0.1),
        _entry("b", weight=[1.0, -0.3], density=[0.3, 0.9], gamma=_BY_PART), base="base",
        weight=0.4, density=0.8,
    ),
    "della-gradients": _recipe(
        "della", _entry("a", weight=[0.3, 0.8]), _entry("b", weight=_SOME), _entry("c"),
        base="base", weight=0.5, **{"lambda": [1.2, 0.1]},
    ),
    "della-density-one": _recipe("della", *_three(), base="base"),
    "della_linear-density-one": _recipe("della_linear", *_three(), base="base", normalize=True),
    "della-density-zero": _recipe("della", *_three(density=0.0), base="base"),
    "model_stock": _recipe("model_stock", _entry("a"), _entry("b"), _entry("c"), base="base"),
    "model_stock-filter-wise": _recipe(
        "model_stock", _entry("base"), _entry("a"), _entry("c"), base="base", filter_wise=True
    ),
    "sce": _recipe("sce", _entry("a"), _entry("b"), _entry("c"), base="base"),
    "sce-topk": _recipe(
        "sce", _entry("a"), _entry("b"), _entry("c"), base="base", select_topk=[0.1, 0.6]
    ),
    "sce-topk-zero": _recipe("sce", _entry("a"), _entry("b"), base="base", select_topk=0.0),
    "nearswap": _recipe("nearswap", _entry("a"), base="base", t=0.02),
    "nearswap-gradients": _recipe("nearswap", _entry("c"), base="base", t=[0.0, 0.05, 0.3]),
    "nearswap-filters": _recipe("nearswap", _entry("a"), base="base", t=_BY_PART_T),
    "arcee_fusion": _recipe("arcee_fusion", _entry("a"), base="base"),
    "arcee_fusion-base-listed": _recipe("arcee_fusion", _entry("base"), _entry("c"), base="base"),
    "ram": _recipe("ram", _entry("a"), _entry("b"), _entry("c"), base="base"),
    "ram-epsilon": _recipe("ram", _entry("a"), _entry("b"), _entry("c"), base="base", epsilon=0.08),
    "ramplus_tl": _recipe("ramplus_tl", _entry("a"), _entry("b"), _entry("c"), base="base"),
    "ramplus_tl-settings": _recipe(
        "ramplus_tl", _entry("a"), _entry("b"), _entry("c"), base="base",
        epsilon=0.08, r=0.5, alpha=0.9,
    ),
    "slices-passthrough": _sliced(
        "passthrough", _slice(_layers("a", 0, 2)), _slice(_layers("b", 1, 3, scale=[0.5, 1.5])),
        _slice(_layers("c", 0, 1, scale=[2.0, 0.25])),
    ),
    "slices-slerp": _sliced(
        "slerp", _slice(_layers("base", 0, 3), _layers("a", 0, 3)), base="base", t=_T
    ),
    "slices-linear": _sliced(
        "linear",
        _slice(_layers("a", 0, 2, weight=[0.2, 0.6]), _layers("b", 1, 3), weight=0.5),
        _slice(_layers("c", 2, 3, weight=[0.0, 0.7]), _layers("base", 0, 1), weight=_BY_PART),
        normalize=False,
    ),
    "slices-ties": _sliced(
        "ties",
        _slice(_layers("base", 0, 2), _layers("a", 0, 2, density=[0.2, 0.9]), _layers("b", 0, 2)),
        _slice(_layers("base", 2, 3), _layers("a", 2, 3, weight=0.4), _layers("c", 2, 3),
               density=0.4, **{"lambda": 0.5}),
        base="base", weight=[0.9, 0.3], density=0.6, **{"lambda": [1.0, 0.7]},
    ),
    "slices-karcher": _sliced(
        "karcher", _slice(_layers("a", 0, 2), _layers("b", 1, 3)),
        _slice(_layers("c", 0, 1), _layers("base", 1, 2)),
    ),
    "slices-model_stock": _sliced(
        "model_stock",
        _slice(_layers("base", 0, 2), _layers("a", 0, 2), _layers("b", 0, 2), _layers("c", 1, 3)),
        _slice(_layers("base", 1, 2), _layers("b", 2, 3), _layers("c", 0, 1)), base="base",
    ),
    "slices-nuslerp": _sliced(
        "nuslerp", _slice(_layers("a", 1, 3, weight=[0.2, 0.9]), _layers("b", 0, 2, weight=0.4)),
        _slice(_layers("b", 0, 1, weight=0.4), _layers("c", 2, 3, weight=_BY_PART)),
    ),
    "slices-breadcrumbs": _sliced(
        "breadcrumbs",
        _slice(_layers("base", 0, 3), _layers("a", 0, 3, gamma=0.1), _layers("c", 0, 3),
               density=[0.9, 0.3]),
        base="base", weight=[0.8, -0.4], density=0.5,
    ),
    "slices-arcee_fusion": _sliced(
        "arcee_fusion", _slice(_layers("base", 0, 2), _layers("c", 1, 3)), base="base"
    ),
    "slices-task_arithmetic": _sliced(
        "task_arithmetic",
        _slice(_layers("base", 1, 3), _layers("a", 0, 2, weight=-0.5), _layers("b", 1, 3)),
        _slice(_layers("base", 0, 1), _layers("a", 0, 1), _layers("c", 2, 3), normalize=True),
        base="base", weight=0.8,
    ),
}  # fmt: skip
