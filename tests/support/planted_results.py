"""Contents that somebody might plant in the place of a step's stored result."""

from __future__ import annotations

import base64
import json
import lzma
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

Stored = dict[str, Any]
Attack = Callable[[Stored, Path], bytes]
"""Makes what is planted from the honest result, and a file for it to make if it runs."""

noted: list[object] = []
"""What `note` was called with."""


def note(value: object) -> object:
    """A function that a stored result can name."""
    noted.append(value)
    return value


def loads(text: str, **_options: object) -> object:
    """What makes of this module a JSON library that a stored result can name."""
    return note(json.loads(text))


def of_result(change: Callable[[Stored, Path], Any]) -> Attack:
    """An attack that replaces the stored result, given the honest one."""

    def attack(stored: Stored, marker: Path) -> bytes:
        result = change(json.loads(stored["result"]), marker)
        return json.dumps({**stored, "result": json.dumps(result)}).encode()

    return attack


def of_metadata(**changes: Any) -> Attack:
    """An attack that changes what the result says of how it was stored."""

    def attack(stored: Stored, marker: Path) -> bytes:
        return json.dumps({**stored, "metadata": {**stored["metadata"], **changes}}).encode()

    return attack


def of_serializer(**changes: Any) -> Attack:
    """An attack that changes options of the serializer."""

    def attack(stored: Stored, marker: Path) -> bytes:
        serializer = {**stored["metadata"]["serializer"], **changes}
        return of_metadata(serializer=serializer)(stored, marker)

    return attack


def order(marker: Path) -> Stored:
    """A value by which Prefect's reader calls a function."""
    return {"__class__": "subprocess.getoutput", "data": {"cmd": f"touch '{marker}'"}}


class Touch:
    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self._marker}'",)


def pickled(marker: Path, pack: Callable[[bytes], bytes] = lambda content: content) -> str:
    inner = base64.encodebytes(pickle.dumps(Touch(marker)))
    return (inner if pack is bytes else base64.encodebytes(pack(inner))).decode()


def plain_pickle(stored: Stored, marker: Path) -> bytes:
    metadata = {**stored["metadata"], "serializer": {"type": "pickle"}}
    return json.dumps({"metadata": metadata, "result": pickled(marker, bytes)}).encode()


def compressed(kind: str, inner: str) -> Attack:
    def attack(stored: Stored, marker: Path) -> bytes:
        metadata = {**stored["metadata"], "serializer": {"type": kind, "serializer": inner}}
        return json.dumps({"metadata": metadata, "result": pickled(marker, lzma.compress)}).encode()

    return attack


RUN_CODE: dict[str, Attack] = {
    "a function in place of the class": of_result(lambda _, marker: order(marker)),
    "a function in a field": of_result(
        lambda result, marker: {
            **result,
            "data": {**result["data"], "reasons": [order(marker)]},
        }
    ),
    "a function in a field that the record does not have": of_result(
        lambda result, marker: {
            **result,
            "data": {**result["data"], "more": [[{"deep": [order(marker)]}]]},
        }
    ),
    "a function beside the record": of_result(
        lambda result, marker: {**result, "more": order(marker)}
    ),
    "records in a list, and a function": of_result(lambda result, marker: [result, order(marker)]),
    "pickle": plain_pickle,
    "compressed/pickle": compressed("compressed/pickle", "pickle"),
    "pickle, compressed": compressed("compressed", "pickle"),
    "no metadata, which means pickle": lambda _, marker: json.dumps(
        {"result": pickled(marker, bytes)}
    ).encode(),
    "the form of earlier versions": lambda _, marker: json.dumps(
        {"data": pickled(marker, bytes), "serializer": {"type": "pickle"}}
    ).encode(),
    "JSON with another decoder": of_serializer(object_decoder=f"{__name__}.note"),
    "a JSON library to import": of_serializer(jsonlib=__name__),
}
"""Planted contents that were acted upon before."""


def of_data(**changes: Any) -> Attack:
    return of_result(lambda result, _: {**result, "data": {**result["data"], **changes}})


SOURCE = {"reference": "a", "path": "/a", "digest": "a", "files": []}
WRONG: dict[str, Attack] = {
    "an exception": of_result(
        lambda _, marker: {"__exc_type__": "builtins.OSError", "message": "x"}
    ),
    "another record of ours": of_result(
        lambda *_: {"__class__": "merge_core.records.SourceCheckpoint", "data": SOURCE}
    ),
    "a class that is not text": of_result(lambda result, _: {**result, "__class__": {"a": 1}}),
    "a class that is a list": of_result(lambda result, _: {**result, "__class__": []}),
    "the base class of records": of_result(
        lambda result, _: {**result, "__class__": "merge_core.records.Record"}
    ),
    "no class": of_result(lambda result, _: result["data"]),
    "nothing": of_result(lambda *_: None),
    "an unknown field": of_data(more=1),
    "a field missing": of_result(lambda result, _: {**result, "data": {}}),
    "a field of another type": of_data(verdict="yes"),
    "a key that names a class, of any kind": of_data(reasons=[{"__type__": "x"}]),
    "another encoder": of_serializer(object_encoder="builtins.print"),
    "options of the library": of_serializer(loads_kwargs={"strict": False}),
    "an unknown option": of_serializer(more=1),
    "an unknown serializer": of_serializer(type="mine"),
    "a serializer that is text": of_metadata(serializer="json"),
    "no serializer": of_metadata(serializer=None),
    "more metadata": of_metadata(more=1),
    "another storage": of_metadata(storage_block_id="5ca9c0d4-3a37-4bd0-94e2-0a8a3d6a9b11"),
    "a version that names a class": of_metadata(prefect_version={"__class__": "builtins.print"}),
    "a time of expiry": of_metadata(expiration="2999-01-01T00:00:00Z"),
    "no key": of_metadata(storage_key=None),
    "more beside the result": lambda stored, _: json.dumps({**stored, "more": 1}).encode(),
    "a result that is no text": lambda stored, _: json.dumps({**stored, "result": {}}).encode(),
    "a class given twice": lambda stored, marker: json.dumps(
        {**stored, "result": stored["result"].replace("{", f'{{"__class__": "{marker}", ', 1)}
    ).encode(),
    "metadata given twice": lambda stored, _: (
        b'{"metadata": {}, ' + json.dumps(stored).encode().removeprefix(b"{")
    ),
    "a person's approval": of_data(
        approval={"approved": True, "at": "2026-01-01", "flow_run_id": "x", "by": "the boss"}
    ),
    "scores that are not those of the reports": of_result(
        lambda result, _: json.loads(
            json.dumps(result).replace('"candidate": 0.75', '"candidate": 0.99')
        )
    ),
    "another rule": of_data(min_gain=-1.0),
    "another checkpoint": of_data(candidate_digest="c" * 64),
    "not UTF-8": lambda *_: b'{"metadata": "\xff"}',
    "half a surrogate pair": of_data(reasons=["\ud800"]),
    "not JSON": lambda *_: b"\x80\x05\x95",
    "nothing at all": lambda *_: b"",
    "a list": lambda *_: b"[]",
    "a hundred thousand lists, one in another": lambda *_: b"[" * 100_000,
    "that in the result": lambda stored, _: json.dumps(
        {**stored, "result": "[" * 100_000}
    ).encode(),
    "that in the record": lambda stored, _: json.dumps(
        {
            **stored,
            "result": stored["result"].replace(
                '"reasons": [', '"more": ' + "[" * 5000 + "]" * 5000 + ', "reasons": [', 1
            ),
        }
    ).encode(),
    "five million values": lambda stored, _: b"[" + b"0," * 5_000_000 + b"0]",
}
