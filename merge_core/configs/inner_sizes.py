"""Sizes inside a layer that many architectures state: of state spaces, shared experts and others.

Rules go by keys and by tensors' names, never by an architecture's. A size that several settings
make together is compared where all of them are there.
"""

from __future__ import annotations

import math
import re

from merge_core.configs.size_rules import Settings, Size, Stated, named, size, widths

_STATE_HEADS = {
    "mamba_n_heads": "mamba_d_head",
    "n_mamba_heads": "mamba_headdim",
    "mamba_num_heads": "mamba_head_dim",
    "num_heads": "head_dim",
}
"""Heads of a state space, and the size of one."""
_GROUPS = ("mamba_n_groups", "mamba_ngroups", "n_groups")
_STATES = ("mamba_d_state", "ssm_state_size", "state_size")
_KERNELS = ("mamba_d_conv", "conv_kernel", "linear_conv_kernel_dim", "conv1d_width", "conv_L_cache")
_SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")


def _any(*keys: str) -> Stated:
    """One of several settings."""
    return lambda part: named(part, *keys)


def _times(*keys: str) -> Stated:
    """The product of several settings, all of which must be there."""

    def stated(part: Settings) -> dict[str, int]:
        numbers = [named(part, key) for key in keys]
        if not all(len(each) == 1 for each in numbers):
            return {}
        return {" x ".join(keys): math.prod(next(iter(each.values())) for each in numbers)}

    return stated


def _twice(*keys: str) -> Stated:
    """Of a gate and its other half in one."""
    return lambda part: {f"2 x {key}": 2 * value for key, value in named(part, *keys).items()}


def _first(part: Settings, keys: tuple[str, ...]) -> int | None:
    """The setting of a list of names for one thing that a config has."""
    return next(iter(named(part, *keys).values()), None)


def _state_heads(part: Settings) -> dict[str, int]:
    """Heads of a state space, where it has some; a config without its own key has no other."""
    return named(part, *_STATE_HEADS) if _first(part, _STATES) else {}


def _state_width(part: Settings) -> dict[str, int]:
    """Heads of a state space times the size of one."""
    if not _first(part, _STATES):
        return {}
    pairs = [_times(heads, each)(part) for heads, each in _STATE_HEADS.items()]
    return next((pair for pair in pairs if pair), {})


def _state_channels(part: Settings) -> dict[str, int]:
    """What goes through a convolution: the width, and twice the state for each group."""
    groups, state = _first(part, _GROUPS), _first(part, _STATES)
    if not groups or not state:
        return {}
    return {
        f"{what}, and 2 x {groups} groups of {state}": value + 2 * groups * state
        for what, value in _state_width(part).items()
    }


def _state_inner(part: Settings) -> dict[str, int]:
    """The width of a state space that is all of a layer, which has no other inner width."""
    return named(part, "intermediate_size") if part.get("time_step_rank") else {}


def _expanded(part: Settings) -> dict[str, int]:
    """The width of a state space as a multiple of the model's, or as a setting of its own."""
    own = named(part, "mamba_d_ssm")
    if own:
        return own
    times = part.get("mamba_expand")
    return {
        f"mamba_expand x {key}": int(times * width)
        for key, width in widths(part).items()
        if isinstance(times, int | float)
    }


def _linear_channels(part: Settings) -> dict[str, int]:
    """Queries, keys and values of linear attention, which go through one convolution."""
    keys = _times("linear_num_key_heads", "linear_key_head_dim")(part)
    values = _times("linear_num_value_heads", "linear_value_head_dim")(part)
    return {
        f"2 x {key} + {value}": 2 * keys[key] + values[value] for key in keys for value in values
    }


def _of_both_towers(part: Settings) -> dict[str, int]:
    """What text and images are projected to: their own configs may say something else of it."""
    has_towers = "text_config" in part or "vision_config" in part
    return named(part, "projection_dim") if has_towers else {}


def _of_patches(*keys: str) -> Stated:
    """Of images that are cut into patches, not of what another network makes of them before."""
    return lambda part: named(part, *keys) if part.get("patch_size") != 1 else {}


def _shared_experts(part: Settings) -> dict[str, int]:
    """Width of the shared experts together: so many experts, or a setting of its own."""
    own = named(part, "moe_shared_expert_intermediate_size", "shared_expert_intermediate_size")
    each = named(part, "moe_intermediate_size")
    return own | {
        f"{count} x {key}": number * width
        for count, number in named(part, *_SHARED).items()
        for key, width in each.items()
    }


_SPACE = r"\.(mamba|mixer)\."
INNER_SIZES = (
    size("the size of the convolution", r"\.(conv_?1d|conv\.conv)", 2, _any(*_KERNELS)),
    Size("the number of states", re.compile(_SPACE + r"A_log$"), 1, _any(*_STATES), 2),
    Size("the number of heads", re.compile(_SPACE + r"dt_bias$"), 0, _state_heads),
    size("the rank of the time step", r"\.dt_proj", 1, _any("mamba_dt_rank", "time_step_rank")),
    size("the width of the state space", _SPACE + "out_proj", 1, _state_width),
    size("the width of the state space", r"\.mixer\.dt_proj", 0, _state_inner),
    size("the width of the state space", r"\.mamba\.out_proj", 1, _expanded),
    size("the channels of the convolution", _SPACE + "conv1d", 0, _state_channels),
    Size(
        "the number of heads",
        re.compile(r"\.linear_attn\.dt_bias$"),
        0,
        _any("linear_num_value_heads"),
    ),
    size("the size of a head", r"\.linear_attn\.norm", 0, _any("linear_value_head_dim")),
    size(
        "the size of all heads",
        r"\.linear_attn\.out_proj",
        1,
        _times("linear_num_value_heads", "linear_value_head_dim"),
    ),
    size("the channels of the convolution", r"\.linear_attn\.conv1d", 0, _linear_channels),
    Size("the recurrent width", re.compile(r"\.rg_lru\.recurrent_param$"), 0, _any("lru_width")),
    size("the shared experts' width", r"\.shared_experts\.(gate|up)_proj", 0, _shared_experts),
    size(
        "the shared experts' width",
        r"\.shared_mlp\.input_linear",
        0,
        _twice("shared_intermediate_size"),
    ),
    size("the inner width", r"\.mixer\.up_proj", 0, _any("intermediate_size")),
    size("the inner width", r"\.mlp\.Wi", 0, _twice("intermediate_size")),
    size(
        "the inner width",
        r"\.shared_transformer\.feed_forward\.gate_up_proj",
        0,
        _twice("intermediate_size"),
    ),
    size(
        "the size of all queries",
        r"\.self_attn\.q_proj",
        0,
        _times("num_attention_heads", "attention_head_dim"),
    ),
    size("the rank of the adapters", r"adapter_list\.0\.0", None, _any("adapter_rank")),
    size("the number of token types", r"\.token_type_embeddings", 0, _any("type_vocab_size")),
    size(
        "the number of relative positions",
        r"\.relative_attention_bias",
        0,
        _any("relative_attention_num_buckets"),
    ),
    size(
        "the number of heads",
        r"\.relative_attention_bias",
        1,
        _any("num_heads", "num_attention_heads", "n_heads"),
    ),
    size("the size of all heads", r"Attention\.[qkv]", 0, _times("num_heads", "d_kv")),
    size(
        "the width of each layer's input",
        r"\.per_layer_input_gate",
        0,
        _any("hidden_size_per_layer_input"),
    ),
    size(
        "the number of rows",
        r"embed_tokens_per_layer",
        0,
        _any("vocab_size_per_layer_input"),
    ),
    size("the rank of laurel", r"\.laurel\.linear_left", 0, _any("laurel_rank")),
    size(
        "the number of parallel inputs", r"\.altup\.correction_coefs", 0, _any("altup_num_inputs")
    ),
    size("the width of the projection", r"^(text|visual)_projection", 0, _of_both_towers),
    size(
        "the number of channels",
        r"patch_embeddings?\.projection",
        1,
        _of_patches("num_channels"),
        4,
    ),
    size("the size of a patch", r"patch_embeddings?\.projection", 2, _of_patches("patch_size"), 4),
)
