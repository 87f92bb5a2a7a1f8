"""A size that a config may state and a tensor shows: the form of a rule, and what rules share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from merge_core.configs.stacking.places import Path, is_whole
from merge_core.findings import some

Settings = Mapping[str, Any]
Stated = Callable[[Settings], dict[str, int]]
"""By the setting that states it, every number that a size may have."""

_WIDTHS = (
    *("hidden_size", "n_embd", "d_model", "dim", "model_dim", "hidden_dim"),
    *("embedding_size", "word_embed_proj_dim", "embedding_dim", "d_embed"),
    *("input_embedding_size", "embedding_rank"),
)


class Size(NamedTuple):
    """One size, the tensors that show it, and what settings may state of it."""

    what: str
    tensors: re.Pattern[str]
    """Found in the tensors' names, with every number between dots a 0."""
    axis: int | None
    """Where the size is; None if it may be any extent."""
    stated: Stated
    dims: int | None = None
    """Axes that the tensor must have for the rule to be about it."""


def whole(value: Any) -> int | None:
    """A setting that is a whole number above 0."""
    return value if is_whole(value) and value > 0 else None


def named(part: Settings, *keys: str) -> dict[str, int]:
    """The whole numbers under these keys, and those in lists under them."""
    found = {}
    for key in keys:
        values = part.get(key)
        for index, value in enumerate(values if isinstance(values, list) else [values]):
            if (number := whole(value)) is not None:
                found[f"{key}[{index}]" if isinstance(values, list) else key] = number
    return found


def widths(part: Settings) -> dict[str, int]:
    """What states the width of a model."""
    return named(part, *_WIDTHS)


def total(*keys: str) -> Stated:
    """The sum of several settings, all of which must be there."""

    def stated(part: Settings) -> dict[str, int]:
        values = [whole(part.get(key)) for key in keys]
        numbers = [value for value in values if value is not None]
        return {" + ".join(keys): sum(numbers)} if len(numbers) == len(keys) else {}

    return stated


def size(
    what: str, tensors: str, axis: int | None, stated: Stated, dims: int | None = None
) -> Size:
    """The rule for a module's weight."""
    return Size(what, re.compile(tensors + r"\.weight$"), axis, stated, dims)


def all_stated(parts: Sequence[tuple[Path, Settings]], stated: Stated) -> list[tuple[str, int]]:
    """What all parts state of a size, without what the text model's own part below says anew."""
    found: dict[str, dict[Path, set[int]]] = {}
    for path, part in parts:
        for key, value in stated(part).items():
            found.setdefault(key, {}).setdefault(path, set()).add(value)
    return [
        (key, value)
        for key, by_part in found.items()
        for path, values in by_part.items()
        if not any(_is_text_of(path, other) for other in by_part)
        for value in sorted(values)
    ]


def _is_text_of(outer: Path, inner: Path) -> bool:
    """Whether one part holds the settings of the text model that the other has too."""
    return inner[: len(outer)] == outer and any("text" in key for key in inner[len(outer) :])


def in_pairs(stated: Iterable[tuple[str, int]]) -> str:
    return some(f"{key}: {value}" for key, value in dict.fromkeys(stated))
