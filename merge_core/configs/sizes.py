"""Sizes that a config states and the tensors' headers know: they agree, or nothing can be loaded.

A size is only compared where a tensor's name says which one it is; several settings may state it
(a text model's and a head's, with and without padding), and one that fits is enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from merge_core.configs.counts import counted_wrong, experts_stated
from merge_core.configs.inner_sizes import INNER_SIZES
from merge_core.configs.size_rules import (
    Settings,
    Size,
    Stated,
    all_stated,
    in_pairs,
    named,
    size,
    total,
    whole,
    widths,
)
from merge_core.configs.stacking.places import at, is_tower, places
from merge_core.configs.stated_parts import labels, lacks_head, parts_wrong
from merge_core.findings import Finding, some

Headers = Mapping[str, tuple[str, tuple[int, ...]]]
"""Dtype code and shape of each tensor, by name."""

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_OF_ITS_OWN_SIZE = re.compile(r"(^|\.)(mtp|v_head|value_head)[^.]*\.")
"""Parts beside the model, whose sizes no usual setting states."""
_SIDES = ("encoder_config", "decoder_config", "global_config")
"""Parts that hold the whole config of one side each."""
_POSITIONS = (
    *("max_position_embeddings", "n_positions", "n_ctx", "max_source_positions"),
    *("max_target_positions", "max_seq_len", "seq_length"),
)
_OTHER_ROWS = re.compile(r"multiple|divisible|per_layer|type_vocab")
_PADDING = ("pad_vocab_size_multiple", "make_vocab_size_divisible_by", "pad_vocab_size_multiple_of")


def size_findings(
    name: str, headers: Headers, config: Settings, *, leads: bool = False
) -> list[Finding]:
    """An error that lists every size in which a config and its weights contradict each other.

    Args:
        leads: the result has this model's tensors, so what it lacks the result lacks.
    """
    wrong = list(_wrong(headers, config, leads)) if config else []
    if not wrong:
        return []
    return [
        Finding(
            # The rules are those of language models: other models have sizes that nothing states.
            severity="error" if _has_vocabulary(config) else "warning",
            code="config-contradicts-weights",
            subject=name,
            message=f"config.json does not describe these weights: {some(wrong, 5)}",
            mend="put back the config.json that was saved with these weights, or the weights that"
            " belong to it; a model cannot be loaded from both",
            where="config.json",
        )
    ]


def _wrong(headers: Headers, config: Settings, leads: bool) -> Iterator[str]:
    if any(isinstance(config.get(key), dict) for key in _SIDES):
        return  # sides of other sizes, which their tensors' names need not tell apart
    parts = [
        (place.path, {**whole_part, **single})
        for place in places(config, None)
        for whole_part in [dict(at(config, place.path))]
        for single in [{}, *_of_single_layers(whole_part)]
    ]
    # A model that is nothing but a vision or audio model has no tower beside it.
    has_towers = _has_towers(config)
    names = [
        name
        for name in headers
        if not (has_towers and is_tower(name)) and not _OF_ITS_OWN_SIZE.search(name)
    ]
    own: dict[str, dict[tuple[int, ...], str]] = {}
    for name in names:
        own.setdefault(_NUMBER.sub("0", name), {})[headers[name][1]] = name
    for rule in _SIZES:
        stated = all_stated(parts, rule.stated)
        values = {value for _, value in stated}
        for kind, shapes in own.items():
            if not stated or not rule.tensors.search(kind):
                continue
            sizes = {
                shape: shape if rule.axis is None else shape[rule.axis : rule.axis + 1]
                for shape in shapes
                if rule.dims in (None, len(shape))
            }
            # Layers of several kinds have several sizes, of which a config may state one.
            if all(values.isdisjoint(extents) for extents in sizes.values()):
                shape, extents = next(iter(sizes.items()), ((), ()))
                if not extents:
                    continue
                shown = extents[0] if rule.axis is not None else list(extents)
                yield (
                    f"{shapes[shape]} is {list(shape)}, so {rule.what} is {shown}, and it says"
                    f" {in_pairs(stated)}"
                )
                break
    yield from counted_wrong(names, config, parts)
    settings = [part for _, part in parts]
    yield from parts_wrong(names, settings)
    if leads and lacks_head(names, config, settings):
        yield "there is no output head, and it says tie_word_embeddings: false"


def _has_vocabulary(config: Settings) -> bool:
    """Whether some part of a config, at any depth, speaks of a vocabulary."""
    return any(
        "vocab" in key or (isinstance(value, dict) and _has_vocabulary(value))
        for key, value in config.items()
    )


def _has_towers(config: Settings) -> bool:
    """Whether some part of a config, at any depth, is about something else than a text model."""
    parts = [(key, value) for key, value in config.items() if isinstance(value, dict)]
    return any(is_tower(key) or _has_towers(value) for key, value in parts)


def _of_single_layers(part: Settings) -> Iterator[Settings]:
    """Settings that a map holds for layers which differ from the others."""
    single = part.get("per_layer_config")
    for settings in single.values() if isinstance(single, dict) else ():
        if isinstance(settings, dict):
            yield settings


def _rows(part: Settings) -> dict[str, int]:
    """Rows of embeddings: every setting that speaks of a vocabulary, padded where it says how."""
    stated = named(part, *(key for key in part if "vocab" in key and not _OTHER_ROWS.search(key)))
    for key in _PADDING:
        multiple = whole(part.get(key))
        if multiple:
            padded = {
                f"{each} padded": -(-rows // multiple) * multiple for each, rows in stated.items()
            }
            stated |= padded
    return stated | _further_rows(part)


def _further_rows(part: Settings) -> dict[str, int]:
    """Rows after those of the vocabulary: for an image, for silence, for each codebook."""
    rows = whole(part.get("vocab_size"))
    if rows is None:
        return {}
    found = total("vocab_size", "additional_vocab_size")(part)
    if "cross_attention_layers" in part:
        found["vocab_size + 8"] = rows + 8
    if "audio_vocab_size" in part:
        found["vocab_size + 1"] = rows + 1
    codes, books = whole(part.get("codebook_vocab_size")), whole(part.get("num_codebooks"))
    if codes and books:
        found["vocab_size with codebooks"] = rows + codes * books + 1
    return found


def _positions(part: Settings) -> dict[str, int]:
    """With the two rows for padding that some classes add without a word."""
    stated = named(part, *_POSITIONS)
    return stated | {f"{key} + 2": value + 2 for key, value in stated.items()}


def _padded_positions(part: Settings) -> dict[str, int]:
    """Of OPT, BART and their kin, which keep rows for padding before the first position."""
    stated = _positions(part)
    return stated | {f"{key} + 1": value + 1 for key, value in named(part, *_POSITIONS).items()}


def _heads(part: Settings) -> tuple[int, int, int] | None:
    """Heads, key-value heads and the width of one; None where it is not that simple."""
    if any(
        part.get(key)
        for key in (
            *("kv_lora_rank", "attention_hidden_size", "attention_head_dim"),
            *("head_ratio", "true_hidden_size"),
        )
    ):
        return None
    heads = whole(part.get("num_attention_heads")) or whole(part.get("n_head"))
    width = next(iter(widths(part).values()), None)
    size = whole(part.get("head_dim")) or (width // heads if width and heads else None)
    kv = part.get("num_key_value_heads", heads)
    own = whole(kv) if kv is not None else heads
    return (heads, own, size) if heads and own and size else None


def _queries(part: Settings) -> dict[str, int]:
    found = _heads(part)
    if found is None:
        return {}
    heads, _, size = found
    sizes = [size, *named(part, "global_head_dim", "swa_head_dim").values()]
    # Queries come with a gate of the same size in some classes.
    return {f"{heads} heads of {each} x{n}": heads * each * n for each in sizes for n in (1, 2)}


def _fused(part: Settings) -> dict[str, int]:
    """Queries, keys and values in one; linear attention has no fewer keys than queries."""
    found = _heads(part)
    if found is None:
        return {}
    heads, kv, size = found
    return {
        f"{heads} heads and twice {kv} key-value heads of {size}": (heads + 2 * kv) * size,
        f"3 x {heads} heads of {size}": 3 * heads * size,
    }


def _outputs(part: Settings) -> dict[str, int]:
    found = _heads(part)
    if found is None:
        return {}
    heads, _, size = found
    wider = named(part, "global_head_dim", "swa_head_dim", "v_head_dim", "swa_v_head_dim")
    return {f"{heads} heads of {each}": heads * each for each in [size, *wider.values()]}


def _keys(part: Settings) -> dict[str, int]:
    found = _heads(part)
    if found is None:
        return {}
    _, heads, size = found
    sizes = [size, *named(part, "global_head_dim", "swa_head_dim").values()]
    every = [heads, *named(part, "num_global_key_value_heads", "swa_num_key_value_heads").values()]
    return {f"{n} key-value heads of {each}": n * each for n in every for each in sizes}


def _inner(part: Settings) -> dict[str, int]:
    """Widths of ordinary feed-forward layers."""
    own = named(part, "intermediate_size_mlp", "dense_intermediate_size")
    stated = own or named(part, *_INNER)
    wide = {f"2 x {key}": 2 * value for key, value in stated.items()}
    has_gates = part.get("use_double_wide_mlp") or "decoder_num_hidden_layers" in part
    return stated | (wide if has_gates else {})


def _inner_by_default(part: Settings) -> dict[str, int]:
    """Of GPT-2 and its kin, whose inner width is four times the width if nothing is said."""
    stated = _inner(part)
    default = {f"4 x {key}": 4 * value for key, value in widths(part).items()}
    return stated | default if stated else {}


def _both_inner(part: Settings) -> dict[str, int]:
    """Of a gate and its other half in one."""
    return {f"2 x {key}": 2 * value for key, value in _inner(part).items()}


def _of_experts(part: Settings) -> dict[str, int]:
    """Widths of experts: a setting of their own, or that of all feed-forward layers."""
    own = [key for key in part if re.search(r"(moe|expert)\w*_(intermediate|ffn|hidden)", key)]
    own = [key for key in own if "shared" not in key]
    return named(part, *own) or named(part, *_INNER)


def _both_of_experts(part: Settings) -> dict[str, int]:
    return {f"2 x {key}": 2 * value for key, value in _of_experts(part).items()}


def _shared(part: Settings) -> dict[str, int]:
    """Widths of shared experts, where one setting says them."""
    return named(part, "shared_expert_intermediate_size", "shared_intermediate_size")


def _latent_heads(*keys: str) -> Stated:
    """The sum of several settings for each head, in models with latent attention."""

    def stated(part: Settings) -> dict[str, int]:
        heads = whole(part.get("num_attention_heads"))
        if not heads or not part.get("kv_lora_rank"):
            return {}
        each = total(*keys)(part)
        return {f"{heads} heads of {key}": heads * value for key, value in each.items()}

    return stated


def _latent_keys(part: Settings) -> dict[str, int]:
    """Keys come without the part that is rotated, or with it."""
    without = _latent_heads("qk_nope_head_dim", "v_head_dim")(part)
    return without | _latent_heads("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")(part)


def _ranks(part: Settings) -> dict[str, int]:
    """The rotated part of the keys comes beside the rest, or from a matrix of its own."""
    beside = total("kv_lora_rank", "qk_rope_head_dim")(part)
    return beside | total("kv_lora_rank")(part) if beside else {}


_INNER = (
    *("intermediate_size", "ffn_dim", "d_ff", "n_inner", "ffn_hidden_size"),
    *("encoder_ffn_dim", "decoder_ffn_dim"),
)
_EMBEDDINGS = (
    r"^([^0]*\.)?(embed_tokens|wte|word_embeddings|tok_embeddings|embed_in|shared|tokens_embed"
    r"|token_embedding|backbone\.embeddings)"
)
_HEAD = r"^([^0]*\.)?(lm_head|embed_out)"
_NORM = r"^(model|backbone|transformer)\.(norm|norm_f|ln_f|final_layernorm)"
_PLACES = r"^([^0]*\.)?(wpe|position_embeddings|positions_embed|position_embedding)"
_ATTENTION = r"(layers?|h)\.0\.(self_attn|attention|attn|temporal_block|mixer)(\.(self|attention))?"
_MLP = r"(mlp|feed_forward)"
_SIZES = (
    size("the number of rows", _EMBEDDINGS, 0, _rows),
    size("the number of the head's rows", _HEAD, 0, _rows),
    size("the number of labels", r"^(score|classifier(\.out_proj)?)", 0, labels, 2),
    size("the width", _EMBEDDINGS, 1, widths),
    size("the width of the head", _HEAD, 1, widths),
    size("the width of the last norm", _NORM, 0, widths),
    size("the number of positions", _PLACES, 0, _positions),
    size("the number of positions", r"^([^0]*\.)?embed_positions", 0, _padded_positions),
    size("the size of all queries", _ATTENTION + r"\.(q_proj|query)", 0, _queries),
    size("the size of all keys", _ATTENTION + r"\.k_proj", 0, _keys),
    size("the size of all of these", _ATTENTION + r"\.qkv_proj", 0, _fused),
    size("the size of all heads", _ATTENTION + r"\.o_proj", 1, _outputs),
    size("the inner width", rf"\.0\.{_MLP}\.(gate_proj|up_proj|fc1)", 0, _inner),
    size("the inner width", r"\.0\.intermediate\.dense|\.DenseReluDense\.wi(_\d)?", 0, _inner),
    size("the inner width", rf"\.0\.{_MLP}\.c_fc", None, _inner_by_default),
    size("the inner width", rf"\.0\.{_MLP}\.gate_up_proj", 0, _both_inner),
    size("experts' width", r"experts\.0\.(gate_proj|up_proj|w1|w3)", 0, _of_experts),
    size("the shared experts' width", r"shared_(expert|mlp)\.(gate|up)_proj", 0, _shared),
    Size(
        "the number of experts", re.compile(r"\.experts\.(gate_up|down)_proj$"), 0, experts_stated
    ),
    Size("experts' width", re.compile(r"\.experts\.gate_up_proj$"), None, _both_of_experts),
    size("the number of experts", r"_moe\.(input|output)_linear", 0, experts_stated),
    size("experts' width", r"_moe\.input_linear", None, _both_of_experts),
    size(
        "the rank of keys and values",
        r"\.kv_a_proj_with_mqa",
        0,
        _ranks,
    ),
    size("the rank of keys and values", r"\.kv_b_proj", 1, total("kv_lora_rank")),
    size("the rank of queries", r"\.q_a_proj", 0, total("q_lora_rank")),
    size("the rank of queries", r"\.q_b_proj", 1, total("q_lora_rank")),
    size(
        "the size of all queries",
        r"\.self_attn\.(q_proj|q_b_proj)",
        0,
        _latent_heads("qk_nope_head_dim", "qk_rope_head_dim"),
    ),
    size(
        "the size of all keys and values",
        r"\.self_attn\.kv_b_proj",
        0,
        _latent_keys,
    ),
    *INNER_SIZES,
)
