"""Weight files that an attacker wrote: what their headers claim is refused, in one message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.errors import CheckpointError
from tests.support.hostile_files import opened_apart, put, sound, tensor, weights

ONE = b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
FIELD_TWICE = b'{"a":{"dtype":"U8","dtype":"F32","shape":[1],"data_offsets":[0,1]}}'

HEADERS: dict[str, tuple[bytes, str]] = {
    "header of 2^63 bytes": (weights({"a": tensor()}, bytes(8), 2**63), "claims a header of"),
    "header of 2^64-1 bytes": (weights({"a": tensor()}, bytes(8), 2**64 - 1), "claims a header of"),
    "header longer than the file": (weights({"a": tensor()}, bytes(8), 5000), "is truncated"),
    "header of no bytes": (weights(b""), "not a JSON object"),
    "header not UTF-8": (weights(b'{"\xff":1}'), "not valid JSON"),
    "header with half a surrogate pair": (weights(rb'{"\ud800":1}'), "not valid JSON"),
    "header with encoded surrogates": (weights(b'{"\xed\xa0\x80":1}'), "not valid JSON"),
    "header in UTF-16": (weights('{"a":1}'.encode("utf-16-le")), "not"),
    "header behind a byte order mark": (weights(b'\xef\xbb\xbf{"a":1}'), "not a JSON object"),
    "header that is a list": (weights([1]), "not a JSON object"),
    "header nested 100 000 deep": (
        weights(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "nested too deeply",
    ),
    "overlapping tensors": (
        weights({"a": tensor(), "b": tensor(offsets=(4, 12))}, bytes(12)),
        "overlaps",
    ),
    "the same bytes twice": (weights({"a": tensor(), "b": tensor()}, bytes(8)), "overlaps"),
    "a hole in the data": (
        weights({"a": tensor(), "b": tensor(offsets=(16, 24))}, bytes(24)),
        "leaves a gap",
    ),
    "a hole before the data": (weights({"a": tensor(offsets=(8, 16))}, bytes(16)), "leaves a gap"),
    "bytes after the data": (weights({"a": tensor()}, bytes(9)), "after its last tensor"),
    "data past the end": (weights({"a": tensor()}, bytes(4)), "is truncated"),
    "offsets beyond the end": (
        weights({"a": tensor(shape=(2**40,), offsets=(0, 2**42))}, bytes(8)),
        "is truncated",
    ),
    "offsets backwards": (weights({"a": tensor(offsets=(8, 0))}, bytes(8)), "data_offsets"),
    "negative offsets": (weights({"a": tensor(offsets=(-8, 0))}, bytes(8)), "data_offsets"),
    "offsets that overflow": (
        weights({"a": tensor(offsets=(2**64, 2**64 + 8))}, bytes(8)),
        "data_offsets",
    ),
    "fractional offsets": (weights({"a": tensor(offsets=(0, 8.0))}, bytes(8)), "data_offsets"),
    "three offsets": (weights({"a": tensor(offsets=(0, 4, 8))}, bytes(8)), "data_offsets"),
    "bytes unlike shape times dtype": (weights({"a": tensor(shape=(3,))}, bytes(8)), "given 8"),
    "negative extent": (weights({"a": tensor(shape=(-2,))}, bytes(8)), "impossible shape"),
    "two negative extents": (weights({"a": tensor(shape=(-1, -2))}, bytes(8)), "impossible shape"),
    "overflowing extents": (
        weights({"a": tensor(shape=(2**32, 2**32))}, bytes(8)),
        "impossible shape",
    ),
    "overflow before an extent of 0": (
        weights({"a": tensor(shape=(2**32, 2**32, 0), offsets=(0, 0))}),
        "impossible shape",
    ),
    "overflow hidden by an extent of 0": (
        weights({"a": tensor(shape=(0, 2**61), offsets=(0, 0))}),
        "impossible shape",
    ),
    "extent of 4 000 digits": (
        weights(b'{"a":{"dtype":"U8","shape":[' + b"9" * 4000 + b'],"data_offsets":[0,1]}}', b"x"),
        "impossible shape",
    ),
    "extent of 5 000 digits": (
        weights(b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,1]}}', b"x"),
        "not valid JSON",
    ),
    "fractional extent": (weights({"a": tensor(shape=(2.0,))}, bytes(8)), "impossible shape"),
    "boolean extent": (weights({"a": tensor("F64", (True,))}, bytes(8)), "impossible shape"),
    "extent NaN": (weights({"a": tensor(shape=(float("nan"),))}, bytes(8)), "impossible shape"),
    "extent infinity": (weights({"a": tensor(shape=(1e999,))}, bytes(8)), "impossible shape"),
    "rank of 100 000": (
        weights({"a": tensor("F64", (1,) * 100_000)}, bytes(8)),
        "impossible shape",
    ),
    "shape that is a text": (weights({"a": tensor(shape="2")}, bytes(8)), "impossible shape"),
    "unknown dtype": (weights({"a": tensor("F33")}, bytes(8)), "unknown dtype 'F33'"),
    "dtype in small letters": (weights({"a": tensor("f32")}, bytes(8)), "unknown dtype"),
    "dtype that is a list": (weights({"a": tensor(["F32"])}, bytes(8)), "unknown dtype"),
    "packed 4-bit dtype": (weights({"a": tensor("F4", (16,))}, bytes(8)), "cannot be merged"),
    "tensor twice": (weights(b"{" + ONE + b"," + ONE + b"}", b"x"), "'a' appears twice"),
    "field twice": (weights(FIELD_TWICE, b"x"), "'dtype' appears twice"),
    "field too many": (weights({"a": tensor() | {"file": "/etc"}}, bytes(8)), "not described by"),
    "field missing": (weights({"a": {"dtype": "F32"}}, bytes(8)), "not described by"),
    "metadata of numbers": (weights({"__metadata__": {"a": 1}}), "__metadata__"),
    "metadata that is a list": (weights({"__metadata__": []}), "__metadata__"),
    "no tensors": (weights({"__metadata__": {}}), "holds no tensors"),
    "empty file": (b"", "too short"),
    "seven bytes": (bytes(7), "too short"),
    "zip archive": (b"PK\x03\x04" + bytes(100), "pickle or zip"),
    "pickle": (b"\x80\x04\x95" + bytes(100), "pickle or zip"),
    "pickle of protocol 2": (b"\x80\x02}q\x00." + bytes(100), "pickle or zip"),
    "GGUF": (b"GGUF\x03\x00\x00\x00" + bytes(100), "claims a header of"),
    "HTML": (b"<!DOCTYPE html><html>" * 10, "claims a header of"),
}


@pytest.mark.parametrize("attack", HEADERS)
def test_a_weight_file_is_refused_for(attack: str, tmp_path: Path) -> None:
    content, message = HEADERS[attack]
    put(tmp_path, model__safetensors=content)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path)
    said = str(caught.value)
    assert len(said) < 1000
    assert said.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "name",
    ["", "a\nb", "a\x00b", "\x1b[2J", "\x9b31m", "\u202etxt", "\u2028", "a" * 513, "\ufeffa"],
)
def test_a_tensor_name_that_cannot_be_shown_is_refused(name: str, tmp_path: Path) -> None:
    put(tmp_path, model__safetensors=sound(name))
    with pytest.raises(CheckpointError, match="unusable name") as caught:
        open_checkpoint(tmp_path)
    assert str(caught.value).replace("\n", "").isprintable()


def test_a_sound_file_is_read(tmp_path: Path) -> None:
    put(tmp_path, model__safetensors=sound("a", "größe.weight"))
    assert list(open_checkpoint(tmp_path).tensors) == ["a", "größe.weight"]


def _many(count: int) -> bytes:
    parts = (
        f'"{i}":{{"dtype":"U8","shape":[],"data_offsets":[{i},{i + 1}]}}' for i in range(count)
    )
    return weights(f"{{{','.join(parts)}}}".encode(), bytes(count))


LARGE: dict[str, tuple[Any, str, int, float]] = {
    "a header claimed to be 100 MiB long": (
        lambda: weights({"a": tensor()}, bytes(8), 100 << 20),
        "is truncated",
        16,
        1.0,
    ),
    "a million tensors in one file": (lambda: _many(1_000_000), "more than 4,000,000", 256, 5.0),
    "30 million empty lists": (
        lambda: weights(b'{"a":[' + b"[]," * 30_000_000 + b"[]]}"),
        "more than 4,000,000",
        256,
        5.0,
    ),
    "a name of 30 MiB": (lambda: weights(b'{"' + b"a" * (30 << 20) + b'":1}'), "name", 256, 5.0),
}


@pytest.mark.parametrize("attack", LARGE)
def test_a_large_header_is_refused_in_little_time_and_memory(attack: str, tmp_path: Path) -> None:
    content, message, mebibytes, seconds = LARGE[attack]
    put(tmp_path, model__safetensors=content())
    outcome = opened_apart(tmp_path)
    assert message in outcome.message
    assert len(outcome.message) < 1000
    assert outcome.mebibytes < mebibytes
    assert outcome.seconds < seconds


@pytest.mark.slow
def test_a_hundred_thousand_tensors_in_one_file_are_read(tmp_path: Path) -> None:
    put(tmp_path, model__safetensors=_many(100_000))
    outcome = opened_apart(tmp_path)
    assert outcome.message == ""
    assert outcome.mebibytes < 400
