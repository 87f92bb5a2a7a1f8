"""Reads what Prefect stored of a step as data, and says whether it is what that step writes.

Prefect's own reader does what a stored result tells it: the result names its serializer, pickle
among them, and inside JSON any function to call. Here a result is parsed, compared and validated,
and nothing in it is imported or called.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, TypeVar

from prefect.results import ResultRecord, ResultRecordMetadata
from prefect.serializers import JSONSerializer
from prefect.utilities.importtools import to_qualified_name
from pydantic import ValidationError

from merge_core.files.bounded_json import parse_json
from merge_core.files.own_files import NotOursError
from merge_core.records import Record

R = TypeVar("R", bound=Record)

MAX_BYTES = 128 << 20
"""An evaluation of a million documents takes 100 MB; everything else is small."""

FORMER_NAMES: dict[str, str] = {
    "merge_core.compatibility.CompatibilityReport": (
        "merge_core.verification.verify.CompatibilityReport"
    ),
    "merge_core.profile.TaskVectorProfile": "merge_core.operations.profile.TaskVectorProfile",
    "merge_core.trajectory.path.PathReport": "merge_core.operations.trajectory.path.PathReport",
    "tasks.loading.LoadingReport": "tasks.loading.check.LoadingReport",
}
"""Module and name that a record's class had when earlier versions stored it, to its present one."""

_SERIALIZER = JSONSerializer().model_dump()
_METADATA = set(ResultRecordMetadata.model_fields)
_RESULT = {"metadata", "result"}
_CONTENT = {"__class__", "data"}


def parse_record(content: bytes, name: str, kind: type[R]) -> R:
    """The record in a stored result.

    Args:
        name: of the file, which the result must have been stored under.
        kind: the class that the step declares to return.

    Raises:
        NotOursError: it is not what Prefect writes of such a record.
    """
    stored = _object(content, "it")
    if stored.keys() != _RESULT:
        raise NotOursError("it is no stored result")
    _check_metadata(stored["metadata"], name)
    if not isinstance(stored["result"], str):
        raise NotOursError("its result is not text")
    result = _object(stored["result"].encode(), "its result")
    if result.keys() != _CONTENT:
        raise NotOursError("its result is not one record")
    named = result["__class__"]
    known = FORMER_NAMES.get(named, named) if isinstance(named, str) else None
    if known != to_qualified_name(kind):
        raise NotOursError(f"it does not hold what this step returns, a {kind.__name__}")
    if _names_a_class(result["data"]):
        raise NotOursError("it names a class inside its record")
    try:
        return kind.model_validate(result["data"])
    except ValidationError as error:
        fields = error.error_count()
        raise NotOursError(
            f"{fields} of its fields are not those of a {kind.__name__}"
            if fields > 1
            else f"one of its fields is not that of a {kind.__name__}"
        ) from None


def stored_form(record: Record, path: str) -> bytes:
    """A record in the form in which Prefect stores and reads it under a path."""
    metadata = ResultRecordMetadata(serializer=JSONSerializer(), storage_key=path)
    return ResultRecord(metadata=metadata, result=record).serialize()


def _object(content: bytes, what: str) -> dict[str, Any]:
    try:
        value = parse_json(content, unique_keys=True)
    except ValueError:  # its text may quote a stranger's file
        raise NotOursError(f"{what} is not JSON, or more than we write") from None
    if not isinstance(value, dict):
        raise NotOursError(f"{what} is no JSON object")
    return value


def _check_metadata(metadata: Any, name: str) -> None:
    if not isinstance(metadata, dict) or not metadata.keys() <= _METADATA:
        raise NotOursError("it does not say how it was stored as Prefect does")
    serializer = metadata.get("serializer")
    if not isinstance(serializer, dict) or serializer.get("type") != _SERIALIZER["type"]:
        raise NotOursError("it does not name the JSON serializer")
    if any(_SERIALIZER.get(option, metadata) != value for option, value in serializer.items()):
        raise NotOursError("it sets options of the JSON serializer")
    if metadata.get("expiration") is not None or metadata.get("storage_block_id") is not None:
        raise NotOursError("it names another storage, or a time at which it expires")
    if not isinstance(metadata.get("prefect_version", ""), str):
        raise NotOursError("it does not name a version of Prefect")
    key = metadata.get("storage_key")
    if not isinstance(key, str) or PurePath(key).name != name:
        raise NotOursError("it was stored under another key")


def _names_a_class(data: Any) -> bool:
    """Whether any object inside has a key that Prefect's reader might take for an order."""
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if any(key.startswith("__") for key in value):
                return True
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return False
