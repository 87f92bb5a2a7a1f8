"""Rules by which a layer's number decides its kind, as the classes of transformers have them.

A setting such as `decoder_sparse_step: 2` means another layer once layers have moved. Each rule
says what a config makes of every layer, and writes what the layers of a stack were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from merge_core.configs.stacking.places import is_whole

Settings = Mapping[str, Any]
Kinds = list[Any]

LAYER_TYPES = "layer_types"
_SLIDING, FULL, _LINEAR = "sliding_attention", "full_attention", "linear_attention"


class Rule(NamedTuple):
    """One thing that a layer's number decides."""

    name: str
    """The setting that messages name."""
    keys: frozenset[str]
    """The settings it reads."""
    read: Callable[[Settings, int, str], Kinds | None]
    """What settings make of each of so many layers of a model type; None if they do not have it."""
    write: Callable[[dict[str, Any], Kinds], None]
    """Say in the settings, as far as they can, that layers are of these kinds."""
    mend: str = "give every layer a number at which the donor has one of its kind"
    """How to choose ranges whose kinds the settings can say."""


def whole(settings: Settings, key: str, default: int | None = None) -> int | None:
    """A setting that is a whole number, else the default."""
    value = settings.get(key, default)
    return value if is_whole(value) else default


def _period(settings: Settings, keys: Sequence[str], default: int) -> int | None:
    for key in keys:
        if settings.get(key) is not None:
            return whole(settings, key)
    return default


def _every(period: int | None, last: str, others: str, layers: int) -> Kinds | None:
    """Kinds where each `period`-th layer is another; all alike for 0; None for no number."""
    if period is None:
        return None
    return [last if period and (i + 1) % period == 0 else others for i in range(layers)]


_PATTERN = ("sliding_window_pattern", "_sliding_window_pattern")
_PERIODS: Mapping[str, tuple[tuple[str, ...], int, str, str]] = {
    "gemma2": ((), 2, FULL, _SLIDING),
    "vaultgemma": ((), 2, FULL, _SLIDING),
    "gemma3": (_PATTERN, 6, FULL, _SLIDING),
    "gemma3_text": (_PATTERN, 6, FULL, _SLIDING),
    "gemma3n": ((), 5, FULL, _SLIDING),
    "gemma3n_text": ((), 5, FULL, _SLIDING),
    "cohere2": (_PATTERN, 4, FULL, _SLIDING),
    "exaone4": (_PATTERN, 4, FULL, _SLIDING),
    "gpt_oss": ((), 2, FULL, _SLIDING),
    "olmo3": ((), 4, FULL, _SLIDING),
    "afmoe": (("global_attn_every_n_layers",), 4, FULL, _SLIDING),
    "qwen3_next": (("full_attention_interval",), 4, FULL, _LINEAR),
    "qwen3_5_text": (("full_attention_interval",), 4, FULL, _LINEAR),
    "qwen3_5_moe_text": (("full_attention_interval",), 4, FULL, _LINEAR),
}
"""By model type: the settings that hold the period, what it is without them, what each last layer
of a period is, and what the others are."""
_FROM_LAYER = ("qwen2", "qwen3", "qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text")
"""Windows begin at a layer: `max_window_layers`."""
_GLOBAL_FIRST = ("modernbert", "modernbert-decoder")
UNIFORM_WINDOWS = frozenset(
    {
        *("mistral", "mistral3", "mixtral", "phi3", "phimoe", "starcoder2", "qwen3_moe"),
        *("recurrent_gemma", "gpt_neo", "minimax", "nemotron_h", "smollm3", "llama4_text"),
        *("ministral3", "doge", "moshi"),
    }
)
"""Model types whose window is that of every layer, or follows from another rule."""
LAST_IS_FULL = frozenset(
    {"gemma4_text", "gemma4_unified_text", "diffusion_gemma_text", "embedding_gemma2_text"}
)
"""Model types whose class makes the last layer one of full attention, whatever the config lists."""
BY_NUMBER: Mapping[str, str | None] = {
    "diffllama": None,
    "minimax": None,
    "minimax_text_01": None,
    "beam": None,
    "bailing_moe_linear": None,
    "bailing_hybrid": None,
    "esmc": None,
    "gpt2": "scale_attn_by_inverse_layer_idx",
    "imagegpt": "scale_attn_by_inverse_layer_idx",
    "decision_transformer": "scale_attn_by_inverse_layer_idx",
    "minicpm": "scale_depth",
    "minicpm3": "scale_depth",
}
"""Model types whose layers compute with their own number or with the number of layers, and the
setting that turns it on, if there is one."""


def _types(settings: Settings, layers: int, model_type: str) -> Kinds | None:
    listed = settings.get(LAYER_TYPES)
    if listed not in (None, []):
        return listed[:layers] if isinstance(listed, list) and len(listed) >= layers else None
    if model_type in _PERIODS:
        keys, default, last, others = _PERIODS[model_type]
        if last == FULL and others == _SLIDING and settings.get("sliding_window", 1) is None:
            return [FULL] * layers
        return _every(_period(settings, keys, default), last, others, layers)
    if model_type in _FROM_LAYER:
        first = whole(settings, "max_window_layers", 28)
        uses = settings.get("use_sliding_window") and settings.get("sliding_window")
        return [_SLIDING if uses and i >= (first or 0) else FULL for i in range(layers)]
    if model_type == "qwen2_moe":
        first = whole(settings, "max_window_layers", 28) or 0
        uses = settings.get("use_sliding_window") and settings.get("sliding_window")
        return [_SLIDING if uses and (i + 1) % 2 and i < first else FULL for i in range(layers)]
    if model_type in _GLOBAL_FIRST:
        period = whole(settings, "global_attn_every_n_layers", 3) or 1
        return [_SLIDING if i % period else FULL for i in range(layers)]
    if model_type == "minimax":
        return [FULL if (i + 1) % 2 else _LINEAR for i in range(layers)]
    return None


def _write_types(settings: dict[str, Any], kinds: Kinds) -> None:
    settings[LAYER_TYPES] = kinds
    if "max_window_layers" in settings and _SLIDING in kinds:
        full = kinds.index(_SLIDING)
        if all(kind == _SLIDING for kind in kinds[full:]):
            settings["max_window_layers"] = full


def _expert_layers(settings: Settings, layers: int, _model_type: str) -> Kinds | None:
    """Whether each layer has experts, where leading layers have none."""
    first = whole(settings, "first_k_dense_replace")
    if first is None:
        first = whole(settings, "num_dense_layers")
    often = settings.get("moe_layer_freq", 1)
    if isinstance(often, list):
        if len(often) < layers:
            return None
        return [i >= (first or 0) and bool(often[i]) for i in range(layers)]
    if first is None:
        return None
    step = whole(settings, "moe_layer_freq", 1) or 1
    return [i >= first and i % step == 0 for i in range(layers)]


def _write_expert_layers(settings: dict[str, Any], kinds: Kinds) -> None:
    first = kinds.index(True) if True in kinds else len(kinds)
    for key in ("first_k_dense_replace", "num_dense_layers"):
        if key in settings:
            settings[key] = first
    often = settings.get("moe_layer_freq")
    if isinstance(often, list):
        settings["moe_layer_freq"] = [int(kind) for kind in kinds]
    elif often is not None:
        settings["moe_layer_freq"] = 1


def _sparse_layers(settings: Settings, layers: int, _model_type: str) -> Kinds | None:
    """Whether each layer has experts, where a step and a list of exceptions say so."""
    if "decoder_sparse_step" not in settings and "mlp_only_layers" not in settings:
        return None
    step = whole(settings, "decoder_sparse_step", 1)
    without = settings.get("mlp_only_layers") or []
    if not step or not isinstance(without, list):
        return None
    return [i not in without and (i + 1) % step == 0 for i in range(layers)]


def _write_sparse_layers(settings: dict[str, Any], kinds: Kinds) -> None:
    settings["mlp_only_layers"] = [i for i, sparse in enumerate(kinds) if not sparse]
    settings["decoder_sparse_step"] = 1


def _expert_range(settings: Settings, layers: int, _model_type: str) -> Kinds | None:
    """Whether each layer has experts, where a first and a last one are given."""
    if "moe_layer_start_index" not in settings:
        return None
    start, end = (
        whole(settings, "moe_layer_start_index"),
        whole(settings, "moe_layer_end_index", -1),
    )
    step = whole(settings, "moe_layer_interval", 1)
    if start is None or end is None or not step:
        return None
    last = layers - 1 if end == -1 else end
    return [start <= i <= last and (i + 1) % step == 0 for i in range(layers)]


def _write_expert_range(settings: dict[str, Any], kinds: Kinds) -> None:
    with_experts = [i for i, kind in enumerate(kinds) if kind]
    settings["moe_layer_start_index"] = with_experts[0] if with_experts else len(kinds)
    settings["moe_layer_end_index"] = with_experts[-1] if with_experts else -1
    settings["moe_layer_interval"] = 1


def _interleaved(settings: Settings, layers: int, _model_type: str) -> Kinds | None:
    """Whether each layer has experts, where a list or a step says so."""
    if "interleave_moe_layer_step" not in settings and "moe_layers" not in settings:
        return None
    listed = settings.get("moe_layers")
    if isinstance(listed, list):
        return [i in listed for i in range(layers)]
    step = whole(settings, "interleave_moe_layer_step", 1)
    return [(i + 1) % step == 0 for i in range(layers)] if step else None


def _write_interleaved(settings: dict[str, Any], kinds: Kinds) -> None:
    settings["moe_layers"] = [i for i, kind in enumerate(kinds) if kind]


def _rotated(settings: Settings, layers: int, model_type: str) -> Kinds | None:
    """Whether each layer has rotary positions."""
    listed = settings.get("no_rope_layers")
    if listed not in (None, []):
        return listed[:layers] if isinstance(listed, list) and len(listed) >= layers else None
    if "no_rope_layer_interval" not in settings and model_type not in ("smollm3", "llama4_text"):
        return None
    step = whole(settings, "no_rope_layer_interval", 4)
    return [int((i + 1) % step != 0) for i in range(layers)] if step else None


def _write_rotated(settings: dict[str, Any], kinds: Kinds) -> None:
    settings["no_rope_layers"] = kinds


def _unrolled(settings: Settings, layers: int, _model_type: str) -> Kinds | None:
    """GPT-Neo's notation: runs of kinds, each with how often it comes."""
    runs = settings.get("attention_types")
    if not isinstance(runs, list):
        return None
    kinds: Kinds = []
    for run in runs:
        if not (isinstance(run, list) and len(run) == 2 and isinstance(run[0], list)):
            return None
        if not isinstance(run[1], int) or run[1] * max(1, len(run[0])) > layers:
            return None
        kinds += run[0] * run[1]
    return kinds[:layers] if len(kinds) >= layers else None


def _write_unrolled(settings: dict[str, Any], kinds: Kinds) -> None:
    settings["attention_types"] = [[kinds, 1]]


def _repeated(settings: Settings, layers: int, model_type: str) -> Kinds | None:
    """RecurrentGemma's notation: a run of kinds that is repeated over all layers."""
    run = settings.get("block_types")
    if model_type != "recurrent_gemma" or not isinstance(run, list) or not run:
        return None
    return [run[i % len(run)] for i in range(layers)]


def _write_repeated(settings: dict[str, Any], kinds: Kinds) -> None:
    settings["block_types"] = kinds


def _letters(settings: Settings, layers: int, _model_type: str) -> Kinds | None:
    """Nemotron-H's notation: a letter for each layer."""
    pattern = settings.get("hybrid_override_pattern")
    return list(pattern) if isinstance(pattern, str) and len(pattern) == layers else None


def _write_letters(settings: dict[str, Any], kinds: Kinds) -> None:
    settings["hybrid_override_pattern"] = "".join(kinds)


def _periodic(prefix: str, default_offset: int) -> Rule:
    """Every so many layers one of another kind, from an offset on: Jamba's settings."""
    period_key, offset_key = f"{prefix}_period", f"{prefix}_offset"

    def read(settings: Settings, layers: int, _model_type: str) -> Kinds | None:
        period, offset = whole(settings, period_key), whole(settings, offset_key, default_offset)
        return [i % period == offset for i in range(layers)] if period else None

    def write(settings: dict[str, Any], kinds: Kinds) -> None:
        for period in range(1, len(kinds) + 2):
            for offset in range(period):
                if all((i % period == offset) == kind for i, kind in enumerate(kinds)):
                    settings |= {period_key: period, offset_key: offset}
                    return

    return Rule(
        period_key,
        frozenset({period_key, offset_key}),
        read,
        write,
        f"move every layer by a multiple of {period_key}",
    )


RULES: tuple[Rule, ...] = (
    Rule(
        LAYER_TYPES,
        frozenset(
            {
                LAYER_TYPES,
                *_PATTERN,
                "max_window_layers",
                "global_attn_every_n_layers",
                "full_attention_interval",
                "sliding_window",
                "use_sliding_window",
            }
        ),
        _types,
        _write_types,
    ),
    Rule(
        "first_k_dense_replace",
        frozenset({"first_k_dense_replace", "num_dense_layers", "moe_layer_freq"}),
        _expert_layers,
        _write_expert_layers,
        "take the layers without experts first, and none of them again after one with experts",
    ),
    Rule(
        "decoder_sparse_step",
        frozenset({"decoder_sparse_step", "mlp_only_layers"}),
        _sparse_layers,
        _write_sparse_layers,
    ),
    Rule(
        "moe_layer_start_index",
        frozenset({"moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval"}),
        _expert_range,
        _write_expert_range,
        "keep all layers with experts in one run, with none without between them",
    ),
    Rule(
        "moe_layers",
        frozenset({"moe_layers", "interleave_moe_layer_step"}),
        _interleaved,
        _write_interleaved,
    ),
    Rule(
        "no_rope_layers",
        frozenset({"no_rope_layers", "no_rope_layer_interval"}),
        _rotated,
        _write_rotated,
    ),
    Rule("attention_types", frozenset({"attention_types"}), _unrolled, _write_unrolled),
    Rule("block_types", frozenset({"block_types"}), _repeated, _write_repeated),
    Rule(
        "hybrid_override_pattern",
        frozenset({"hybrid_override_pattern"}),
        _letters,
        _write_letters,
    ),
    _periodic("attn_layer", 4),
    _periodic("expert_layer", 1),
)
