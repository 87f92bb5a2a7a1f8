"""Kinds of tampering with the text of documents that a run keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.edited_objects import sha256
from tests.support.tampering import Tamperer, relocked

FILE = "documents/zoo_code_bpb.jsonl"
"""Of the audited home's merges."""


def _edited(at: Tamperer, change: Callable[[list[dict[str, Any]]], object]) -> Path:
    path = at.artifact(FILE)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _locked_too(at: Tamperer, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """The lock has the sha256 of the edited file, and the run that of the lock."""
    changed = sha256(_edited(at, change))
    relocked(at, lambda value: value["documents"].update({FILE: changed}))


def _easier(lines: list[dict[str, Any]]) -> None:
    lines[3]["doc"]["text"] = "an easier text"


KINDS: dict[str, tuple[Callable[[Tamperer], object], str, str]] = {
    "the text of a document": (lambda at: _edited(at, _easier), "scores", "another text"),
    "the text of a document, and the lock": (
        lambda at: _locked_too(at, _easier),
        "scores",
        "1 of 40 documents have another text",
    ),
    "a document left out, and the lock": (
        lambda at: _locked_too(at, lambda lines: lines.pop()),
        "scores",
        "1 documents are missing, and 0 were not evaluated",
    ),
    "the order in a document, and the lock": (
        lambda at: _locked_too(at, lambda lines: lines[0]["doc"].update(text=lines[1]["doc"])),
        "scores",
        "another text",
    ),
    "texts that were deleted": (lambda at: at.artifact(FILE).unlink(), "scores", "is gone"),
    "texts that cannot be read": (
        lambda at: at.artifact(FILE).write_bytes(b"[" * 100_000),
        "scores",
        "cannot be read",
    ),
    "texts that nobody kept": (
        lambda at: at.artifact("documents/quiz.jsonl").write_text("{}\n"),
        "scores",
        "documents/quiz.jsonl has text that lock.json does not know of",
    ),
}
"""As those of `tests.support.tampering`."""
