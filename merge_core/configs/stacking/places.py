"""Where in a config the settings of one stack of layers are: at the top, in `text_config`, in both.

A multimodal config holds the text model's settings in a part of its own, many hold them at the top
too, and a tower's part has a number of layers that is none of the text model's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeGuard

Path = tuple[str, ...]
"""Keys from the top of a config to one of its parts."""

COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_blocks")
_TOWERS = (
    *("vision", "visual", "image", "video", "vit", "audio", "speech", "codec", "projector"),
    *("resampler", "connector", "quantizer", "vocoder", "quantization", "compression", "mtp"),
    *(
        "talker",
        "timestamp",
        "protein",
        "vq_",
        "wav",
        "depth",
        "draft",
        "assistant",
        "qformer",
        "perceiver",
    ),
)
"""Words in the keys of parts that are about something else than a text model."""
_VISION = ("vision", "visual", "image", "vit")
_AUDIO = ("audio", "speech")
_EXTRA = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_layers", "mtp_num_hidden_layers")
"""How many blocks that predict further tokens follow the layers, and may be numbered like them."""


class Place(NamedTuple):
    """A part of a config that is about the stack, and under which keys its number of layers is."""

    path: Path
    counts: tuple[str, ...]

    @property
    def shown(self) -> str:
        """As it is named in messages: `config.json`, or `config.json: text_config`."""
        return ": ".join(("config.json", ".".join(self.path))) if self.path else "config.json"


class _Tower(NamedTuple):
    module: tuple[str, ...]
    """Words in a module's name that mean this tower."""
    parts: tuple[str, ...]
    """Words in the keys of its parts of a config; none where its settings are at the top."""
    counts: tuple[str, ...]


_KINDS = (
    _Tower(_VISION, _VISION, (*COUNTS, "depth")),
    _Tower(_AUDIO, _AUDIO, (*COUNTS, "encoder_layers")),
    _Tower(("text",), (), COUNTS),
    _Tower(("decoder",), ("decoder",), ("decoder_layers", "num_decoder_layers")),
    _Tower(("encoder",), ("encoder",), ("encoder_layers", "num_encoder_layers", *COUNTS)),
)
ALL_COUNTS = frozenset(key for tower in _KINDS for key in tower.counts)
"""Every key that may hold the number of layers of some stack."""


def places(config: Mapping[str, Any], module: str | None) -> list[Place]:
    """Every part of a config that may say something of a stack's layers, the top first.

    Args:
        module: the recipe's module that is stacked; None for a whole model.
    """
    named = module or ""
    tower = next((each for each in _KINDS if any(word in named for word in each.module)), None)
    if tower is None or tower.module == ("text",):
        return [Place(path, COUNTS) for path in _parts(config, (), ())]
    if tower.module in (_VISION, _AUDIO):
        return [Place(path, tower.counts) for path in _parts(config, (), tower.parts) if path]
    own = [key for key in tower.parts if isinstance(config.get(key), dict)]
    if own:
        return [Place((key,), COUNTS) for key in own]
    return [Place((), tower.counts)]


def is_tower(name: str) -> bool:
    """Whether a tensor's name says that it is part of something else than a text model."""
    return any(word in name for word in _TOWERS)


def is_vision(module: str | None) -> bool:
    """Whether a recipe's module is a tower for images."""
    return any(word in (module or "") for word in _VISION)


def at(config: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """A part of a config; empty where there is none."""
    part: Any = config
    for key in path:
        part = part.get(key, {}) if isinstance(part, Mapping) else {}
    return part if isinstance(part, Mapping) else {}


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether a setting is a whole number; `true` is one to Python, and none to a config."""
    return isinstance(value, int) and not isinstance(value, bool)


def count_of(settings: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[str, int] | None:
    """The key and the number of layers that a part of a config states, if it does."""
    for key in keys:
        value = settings.get(key)
        if is_whole(value) and value > 0:
            return key, value
    return None


def side_of(prefix: str, config: Mapping[str, Any]) -> str | None:
    """Which side of an encoder-decoder a stack is, where the config counts layers by side.

    A decoder that is saved alone keeps the config of both.
    """
    for side in ("decoder", "encoder"):
        if side in prefix.split(".") and count_of(config, (f"{side}_layers",)) is not None:
            return side
    return None


def with_both_counts(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config that says how many layers the decoder has, where it has as many as the encoder
    because nothing else is said: T5's."""
    own = ("num_decoder_layers", "decoder_layers")
    counted = count_of(config, ("num_layers",))
    if counted is None or not config.get("is_encoder_decoder") or count_of(config, own) is not None:
        return config
    return {**config, "num_decoder_layers": counted[1]}


def extra_blocks(config: Mapping[str, Any]) -> dict[tuple[Path, str], int]:
    """Blocks that predict further tokens, by the part and the key that say how many there are."""
    found = {}
    for place in places(config, None):
        settings = at(config, place.path)
        for key in _EXTRA:
            value = settings.get(key)
            if is_whole(value) and value > 0:
                found[place.path, key] = value
    return found


def ordinary_layers(config: Mapping[str, Any], layers: int) -> int:
    """The layers of a stack without blocks that predict further tokens and are numbered after it.

    Args:
        layers: how many the tensors' names count.
    """
    extra = set(extra_blocks(config).values())
    for place in places(config, None):
        stated = count_of(at(config, place.path), place.counts)
        if stated is not None and layers - stated[1] in extra:
            return stated[1]
    return layers


def _parts(config: Mapping[str, Any], path: Path, wanted: tuple[str, ...]) -> Iterator[Path]:
    """Parts below and with this one: those of a tower, or those of none."""
    inside = any(word in key for key in path for word in wanted)
    if not wanted or inside:
        yield path
    for key, value in config.items():
        if not isinstance(value, dict) or not (key.endswith("config") or key in wanted):
            continue
        is_tower = any(word in key for word in _TOWERS)
        if inside or not is_tower or any(word in key for word in wanted):
            yield from _parts(value, (*path, key), wanted)
