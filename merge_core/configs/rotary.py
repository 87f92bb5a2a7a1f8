"""Rotary settings in one form, in whichever notation a config has them.

transformers wrote `rope_theta` and `rope_scaling` up to version 4, some architectures other keys,
a second base for local layers beside the first, and from 5 on `rope_parameters`, for some one for
each kind of layer. Defaults that one notation spells out and another leaves out are filled in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_THETA = ("rope_theta", "global_rope_theta", "rotary_emb_base")
_LOCAL_THETA = ("rope_local_base_freq", "local_rope_theta", "swa_rope_theta")
_SHARE = ("partial_rotary_factor", "rotary_pct")
_FULL, _SLIDING = "full_attention", "sliding_attention"
_TWO_BASES: dict[str, tuple[float, float]] = {
    "gemma3": (1_000_000.0, 10_000.0),
    "t5gemma2": (1_000_000.0, 10_000.0),
    "modernbert": (160_000.0, 10_000.0),
}
"""Beginnings of model types whose layers have two kinds, with the defaults of the two bases."""
_SCALED_EVERYWHERE = "modernbert"
_USUAL_THETA = 10_000.0
_OTHER_NAMES = {"su": "longrope", "mrope": "default"}
_STRETCHED = ("llama3", "yarn", "longrope")
"""Kinds of rope that know the length the model was trained for."""
_TRAINED_LENGTH = "original_max_position_embeddings"
_DEFAULTS = {"partial_rotary_factor": 1.0, "beta_fast": 32.0, "beta_slow": 1.0}
_OF_SCALING = ("factor", _TRAINED_LENGTH)


def rope_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings of a config, or of the language model in it: equal for equal positions.

    Keys are those of transformers 5; `sliding_attention.rope_theta` where kinds of layers differ.
    """
    inner = config.get("text_config")
    text: Mapping[str, Any] = inner if isinstance(inner, dict) else config
    kinds = {kind: _settled(rope, text) for kind, rope in _by_kind(text).items()}
    first, *others = kinds.values()
    if all(other == first for other in others):
        return first
    return {f"{kind}.{key}": value for kind, rope in kinds.items() for key, value in rope.items()}


def _by_kind(text: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What is written of each kind of layer, with the base that each has."""
    written: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(text.get(key), dict):
            written |= text[key]
    nested = {kind: dict(rope) for kind, rope in written.items() if isinstance(rope, dict)}
    common = {key: value for key, value in written.items() if not isinstance(value, dict)}
    kind = str(text.get("model_type") or "")
    two = next((bases for start, bases in _TWO_BASES.items() if kind.startswith(start)), None)
    local = _first(text, _LOCAL_THETA)
    theta = _first(text, _THETA)
    if nested and two is None:
        return {
            name: {"rope_theta": theta} | common | _known(rope) for name, rope in nested.items()
        }
    if two is None and local is None:
        return {"": {"rope_theta": theta} | common}
    usual = two or (_USUAL_THETA, _USUAL_THETA)
    bases = {
        _FULL: usual[0] if theta is None else theta,
        _SLIDING: usual[1] if local is None else local,
    }
    everywhere = kind.startswith(_SCALED_EVERYWHERE)
    return {
        name: {"rope_theta": base}
        | (common if name == _FULL or everywhere else {})
        | _known(nested.get(name, {}))
        for name, base in bases.items()
    }


def _settled(rope: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    """One kind's settings with names, defaults and numbers of one form."""
    known = {key: _number(value) for key, value in rope.items() if value is not None}
    kind = known.pop("type", None)
    kind = known.get("rope_type", kind) or "default"
    kind = _OTHER_NAMES.get(str(kind), kind)
    if kind == "linear" and known.get("factor") == 1.0:
        kind = "default"
    known["rope_type"] = kind
    known.setdefault("rope_theta", _USUAL_THETA)
    share = _first(text, _SHARE)
    if share is not None:
        known.setdefault("partial_rotary_factor", _number(share))
    if kind in _STRETCHED:
        length = text.get(_TRAINED_LENGTH) or known.get(_TRAINED_LENGTH)
        length = length or text.get("max_position_embeddings")
        if length is not None:
            known[_TRAINED_LENGTH] = _number(length)
    elif kind == "default":
        known = {key: value for key, value in known.items() if key not in _OF_SCALING}
    return {key: value for key, value in known.items() if _DEFAULTS.get(key) != value}


def _known(rope: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in rope.items() if value is not None}


def _first(text: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((text[key] for key in keys if text.get(key) is not None), None)


def _number(value: Any) -> Any:
    """A value with whole numbers as float64, within lists too."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    if type(value) is not int:
        return value
    try:
        return float(value)
    except OverflowError:
        return value
