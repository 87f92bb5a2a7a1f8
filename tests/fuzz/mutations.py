"""Damages valid files: their structure (keys, types, extents, names), then perhaps their bytes."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import yaml

STRINGS = (
    *(
        "",
        "a",
        "..",
        "/",
        "../x",
        "../../../../etc/passwd",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "~",
        "$HOME",
    ),
    *(
        "\x00",
        "a\x00b",
        "a\nb",
        "\x1b[2J\x1b]0;x\x07",
        "\x9b31m",
        "\u202e",
        "\ud800",
        "\udcff",
        "\U0001f600",
    ),
    *(
        "F32",
        "BF16",
        "I64",
        "F8_E4M3",
        "F4",
        "f32",
        "LORA",
        "model.safetensors",
        "null",
        "NaN",
        "1e999",
    ),
    *(
        "dtype",
        "shape",
        "data_offsets",
        "__metadata__",
        "weight_map",
        "metadata",
        "a" * 300,
        "x." * 400,
    ),
    *("(a|a)" * 60, ".*.*.*.*.*x", "(a+)+$"),
    *("a?" * 30 + "a" * 30, "[", "(?P<x>", "\\1", "é" * 150),
    *("model-00001-of-00002.safetensors"),
    *("model-00002-of-00002.safetensors", "config.json", "."),
)
NUMBERS = (
    *(0, 1, -1, 2, 7, 8, 63, 64, 2**31 - 1, 2**31),
    *(2**32, 2**48, 2**53 + 1, 2**62, 2**63, 2**64),
    *(-(2**63), 10**18, 10**30, 10**308, 10**400, 0.0, -0.0, 0.5, 2.0, 1e308, -1e308, 1e-320),
    *(float("nan"), float("inf"), float("-inf")),
)
KINDS: tuple[Any, ...] = (None, True, False, [], {}, [[]], [{}], {"": {}}, [None], [0, 0], {"a": 1})


class Again(str):
    """A key that is equal to no other, so that a mapping can be written with a key twice."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def damaged(value: Any, rng: random.Random, times: int) -> Any:
    """A copy of a JSON value with a few places changed."""
    value = copy.deepcopy(value)
    for _ in range(times if value else 0):
        holder, key = _place(value, rng)
        rng.choice(_CHANGES)(holder, key, rng)
    return value


def as_json(value: Any, rng: random.Random) -> bytes:
    """A value as JSON, sometimes formatted otherwise."""
    text = json.dumps(
        value,
        ensure_ascii=rng.random() < 0.8,
        separators=rng.choice(((",", ":"), (", ", ": "), (" ,\n", "\t: "))),
    )
    return text.encode("utf-8", "surrogatepass")


def as_yaml(value: Any, rng: random.Random) -> bytes:
    """A value as YAML, sometimes with tags, anchors and aliases put into it."""
    try:
        text = yaml.dump(_plain(value), sort_keys=False, allow_unicode=True)
    except RecursionError:
        return as_json(value, rng)  # which is YAML too
    if rng.random() < 0.3:
        lines = text.split("\n")
        at = rng.randrange(len(lines))
        lines[at] = f"{lines[at]} {rng.choice(_YAML)}"
        text = "\n".join(lines)
    if rng.random() < 0.1:
        text = rng.choice(_YAML_BOMBS) + text
    return text.encode("utf-8", "surrogatepass")


def scrambled(content: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, taken out, put in or repeated."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at:at] = rng.randbytes(rng.choice((1, 2, 8)))
        elif kind == 2:
            del data[at : at + rng.choice((1, 2, 8, 64))]
        elif kind == 3:
            data[at:at] = data[at : at + rng.choice((1, 8, 64))] * rng.choice((1, 2, 50))
        elif kind == 4:
            data[at:at] = rng.choice(_TOKENS) * rng.choice((1, 1, 3, 2000))
        else:
            data = data[:at]
    return bytes(data)


def safetensors(header: bytes, data: bytes, rng: random.Random) -> bytes:
    """A weight file, sometimes with a header length that is not the header's."""
    length = len(header)
    if rng.random() < 0.15:
        length = rng.choice(
            (0, 1, length - 1, length + 1, length + len(data), 2**31, 2**63, 2**64 - 1)
        )
    return (length % 2**64).to_bytes(8, "little") + header + data


def _place(value: Any, rng: random.Random) -> tuple[Any, Any]:
    """A container within a value, and a key of it, at any depth."""
    holder = value
    while True:
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        inner = holder[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.15:
            return holder, key
        holder = inner


def _hostile(rng: random.Random) -> Any:
    kind = rng.randrange(5)
    if kind == 0:
        return rng.choice(STRINGS)
    if kind == 1:
        return rng.choice(NUMBERS)
    if kind == 2:
        return copy.deepcopy(rng.choice(KINDS))
    if kind == 3:
        nested: Any = []
        for _ in range(rng.choice((3, 30, 70, 400))):
            nested = [nested] if rng.random() < 0.7 else {"a": nested}
        return nested
    return [rng.choice(NUMBERS) for _ in range(rng.choice((1, 2, 3, 9, 100)))]


def _replace(holder: Any, key: Any, rng: random.Random) -> None:
    holder[key] = _hostile(rng)


def _nudge(holder: Any, key: Any, rng: random.Random) -> None:
    value = holder[key]
    if type(value) in (int, float) and abs(value) < 2**62:
        near = (value + 1, value - 1, -value, value * 2, value + 0.5, bool(value))
        holder[key] = rng.choice(near)
    else:
        holder[key] = _hostile(rng)


def _remove(holder: Any, key: Any, rng: random.Random) -> None:
    if len(holder) > 1:
        del holder[key]


def _insert(holder: Any, key: Any, rng: random.Random) -> None:
    if isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), _hostile(rng))
    else:
        holder[rng.choice(STRINGS)] = _hostile(rng)


def _again(holder: Any, key: Any, rng: random.Random) -> None:
    if isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    else:
        holder[Again(key)] = copy.deepcopy(holder[key])


def _rename(holder: Any, key: Any, rng: random.Random) -> None:
    if isinstance(holder, dict):
        holder[rng.choice(STRINGS)] = holder.pop(key)


def _swap(holder: Any, key: Any, rng: random.Random) -> None:
    other = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    holder[key], holder[other] = holder[other], holder[key]


def _plain(value: Any) -> Any:
    """The value without what PyYAML's dumper does not know."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


_CHANGES: tuple[Callable[[Any, Any, random.Random], None], ...] = (
    *(_replace, _replace, _nudge, _nudge, _remove, _insert, _again, _rename, _swap),
)
_TOKENS = (
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b",",
        b":",
        b"\\ud800",
        b"\xed\xa0\x80",
        b"\x00",
        b"\xff",
        b"\n",
    ),
    *(
        b"NaN",
        b"1e999",
        b"-",
        b"9" * 5000,
        b"\xef\xbb\xbf",
        b"&a ",
        b"*a ",
        b"- ",
        b"  ",
        b"!!int ''",
    ),
)
_YAML = (
    *(
        "!!python/object/apply:os.system ['true']",
        "!!python/name:os.system",
        "!!binary aGk=",
        "!!int ''",
    ),
    *(
        "!!float ''",
        "!!bool x",
        "!!timestamp x",
        "2024-13-45",
        "2024-01-01",
        "0x" + "F" * 6000,
        "&a [*a]",
    ),
    *(
        "1:" * 400 + "1",
        '"\\ud800"',
        "!!set {a, b}",
        "!!omap [a: 1]",
        "? [a]",
        "{[a]: b}",
        "<<: *a",
        "=",
        "~",
    ),
    *(
        ".nan",
        ".inf",
        "0b1",
        "[" * 500,
        "{a: " * 400,
        "&x y",
        "*x",
        "%YAML 9.9",
        "---",
        "...",
        "!foo bar",
    ),
)
_BOMB = "l0: &l0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
_MERGE_BOMB = "l0: &l0 {x: 1}\n" + "".join(
    f"l{i}: &l{i} {{<<: [{', '.join([f'*l{i - 1}'] * 9)}]}}\n" for i in range(1, 12)
)
_YAML_BOMBS = (_BOMB, _MERGE_BOMB, "a: &a [*a]\n", "a: &a {b: *a}\n", "%TAG ! x\n---\n")
