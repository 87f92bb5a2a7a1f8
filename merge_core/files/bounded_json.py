"""Parses a stranger's JSON: what it takes in memory is bounded before anything is built from it."""

from __future__ import annotations

import codecs
import json
import math
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from merge_core.errors import CheckpointError, one_line
from merge_core.files.untrusted import read_plain

MAX_VALUES = 4_000_000
"""The largest published tokenizers hold two million; each takes about 150 bytes, 300 at worst."""
_MAX_BYTES = 100 << 20
_MAX_DEPTH = 64
_NESTED = (dict, list)


def parse_json(content: bytes, *, unique_keys: bool = False, finite: bool = False) -> Any:
    """The value of a JSON text in UTF-8.

    Args:
        unique_keys: refuse an object that has a key twice: readers differ in which one they use.
        finite: refuse NaN and infinity, which JSON does not know and Python's reader takes.

    Raises:
        ValueError: not such a text; too many values; nested too deeply; half a surrogate pair,
            which no file could be written with.
    """
    if sum(content.count(sign) for sign in (b",", b"[", b"{")) > MAX_VALUES:
        raise ValueError(f"it holds more than {MAX_VALUES:,} values")
    if unique_keys and not finite and (quick := _quick(content)) is not None:
        return quick
    try:
        value = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_unique if unique_keys else None,
            parse_float=_finite if finite else None,
            parse_constant=_finite if finite else None,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if b"\\ud" in content or b"\\uD" in content:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def read_json(path: Path, *, unique_keys: bool = False, finite: bool = False) -> dict[str, Any]:
    """A JSON object from a checkpoint's file, with its size and depth bounded.

    Options as for `parse_json`.

    Raises:
        CheckpointError: unreadable, a link out of its directory, no plain file, too large, too
            deep, or not an object.
    """
    content = read_plain(path, _MAX_BYTES)
    if content.startswith(codecs.BOM_UTF8):
        raise CheckpointError(
            f"{path.name} begins with a byte order mark, with which no library reads it",
            where=str(path.parent),
            mend="save it as UTF-8 without a byte order mark (in an editor: UTF-8, not UTF-8 with"
            " BOM)",
        )
    try:
        value = parse_json(content, unique_keys=unique_keys, finite=finite)
    except ValueError as error:
        raise CheckpointError(
            f"{path.name} is not JSON: {one_line(error)}",
            where=str(path.parent),
            mend="fetch it again",
        ) from None
    if not isinstance(value, dict) or _deeper_than(value, _MAX_DEPTH):
        raise CheckpointError(
            f"{path.name} is not a plain JSON object", where=str(path.parent), mend="fetch it again"
        )
    return value


def _quick(content: bytes) -> dict[str, Any] | None:
    """An object whose keys are plainly unique, in a third of the time; None where in doubt.

    Every key is followed by a colon, so a key that comes twice leaves more colons than keys.
    """
    try:
        value = from_json(content, allow_inf_nan=False)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    keys = len(value) + sum(len(inner) for inner in value.values() if isinstance(inner, dict))
    return value if content.count(b":") == keys else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {key[:80]!r} appears twice")
            seen.add(key)
    return result


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def _deeper_than(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [
            item
            for outer in level
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if type(item) in _NESTED
        ]
        if not level:
            return False
    return True
