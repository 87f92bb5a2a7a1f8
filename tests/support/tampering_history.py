"""Kinds of tampering with the alias and its history by somebody who keeps the chain whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.registry.alias_state import NOTE_TAG, PIN_TAG, Note, Pin
from tasks.registry.history import HEAD_TAG
from tests.support.tampering import Tamperer

Lines = list[dict[str, Any]]


def history_file(at: Tamperer) -> Path:
    [file] = at.home.home.history.glob("*.jsonl")
    return file


def rewritten(at: Tamperer, change: Callable[[Lines], object]) -> None:
    """Write another history, whose lines follow each other and whose head the registry has."""
    file = history_file(at)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    change(lines)
    texts: list[str] = []
    for number, line in enumerate(lines, 1):
        before = hashlib.sha256(texts[-1].encode()).hexdigest() if texts else "0" * 64
        texts.append(json.dumps(line | {"number": number, "before": before}, separators=(",", ":")))
    remembered(at, texts)


def remembered(at: Tamperer, texts: list[str]) -> None:
    """These lines are the history, and the registry has its head."""
    file = history_file(at)
    file.write_text("".join(f"{text}\n" for text in texts))
    head = hashlib.sha256(texts[-1].encode()).hexdigest()
    chain = file.stem.rpartition("-")[2]
    at.api.set_registered_model_tag("model", HEAD_TAG + chain, f"{len(texts)} {head}")


def moved(at: Tamperer, to: str) -> None:
    """The alias, and the note of our last move."""
    note = Note.model_validate_json(at.api.get_registered_model("model").tags[NOTE_TAG])
    edited = note.model_copy(update={"version": to})
    at.api.set_registered_model_tag("model", NOTE_TAG, edited.model_dump_json(exclude_none=True))
    at.api.set_registered_model_alias("model", "champion", to)


def without_note(at: Tamperer) -> None:
    at.api.set_registered_model_alias("model", "champion", "1")
    at.api.delete_registered_model_tag("model", NOTE_TAG)


def pinned(at: Tamperer, version: str) -> None:
    pin = Pin(version=version, why="I say so", by="Ada", at="2026-01-01", how="promote")
    at.api.set_registered_model_tag("model", PIN_TAG, pin.model_dump_json())
    at.api.set_registered_model_alias("model", "champion", version)


def says_twice(at: Tamperer) -> None:
    texts = history_file(at).read_text().splitlines()
    remembered(at, [*texts[:-1], texts[-1].replace("{", '{"version":"1",', 1)])


def forgotten(at: Tamperer) -> None:
    chain = history_file(at).stem.rpartition("-")[2]
    history_file(at).unlink()
    at.api.delete_registered_model_tag("model", HEAD_TAG + chain)


def renamed(lines: Lines) -> None:
    for line in lines:
        line["model"] = "another"


def older(lines: Lines) -> None:
    for line in lines:
        line["at"] = "2020-01-01T00:00:00+00:00"


def by_the_boss(lines: Lines) -> None:
    lines[-2]["by"] = "The Boss"


def copied_version(at: Tamperer) -> None:
    """The tags of version 2 are put on version 3."""
    for key, value in at.version.tags.items():
        at.api.set_model_version_tag("model", "3", key, value)


def older_history(at: Tamperer) -> None:
    rewritten(at, lambda lines: lines.__delitem__(slice(1, None)))
    moved(at, "1")


KINDS: dict[str, tuple[Callable[[Tamperer], object], str, str]] = {
    "an alias that was removed": (
        lambda at: at.api.delete_registered_model_alias("model", "champion"),
        "alias",
        "by the history version 2 has the alias, and by the registry no version",
    ),
    "an alias that was moved with its note": (
        lambda at: moved(at, "1"),
        "alias",
        "and by the registry version 1",
    ),
    "an alias that was moved, and the note taken off": (
        without_note,
        "alias",
        "note of the last move of the alias is gone",
    ),
    "a forged pin of another version": (
        lambda at: pinned(at, "1"),
        "alias",
        "version 1 is pinned, and no line of the history says by whom",
    ),
    "a forged pin of the champion": (
        lambda at: pinned(at, "2"),
        "alias",
        "version 2 is pinned, and no line",
    ),
    "an older history, and the alias where it was then": (
        older_history,
        "alias",
        "no line of the history speaks of its run",
    ),
    "a line of the history that names an approver": (
        lambda at: rewritten(at, by_the_boss),
        "alias",
        "who approved, by the decision",
    ),
    "the history of another model": (
        lambda at: rewritten(at, renamed),
        "alias",
        "is of the model another",
    ),
    "when lines were written": (
        lambda at: rewritten(at, older),
        "alias",
        "is older than the run",
    ),
    "a line of the history that says something twice": (says_twice, "alias", "cannot be read"),
    "a history that was deleted": (
        lambda at: history_file(at).unlink(),
        "alias",
        "the history that this home kept of the model is gone",
    ),
    "a history that was deleted with its head": (
        forgotten,
        "alias",
        "the history that this home kept of the model is gone",
    ),
    "the champion before, on the run": (
        lambda at: at.api.set_tag(at.run_id, "mergeflow.previous_champion", "1"),
        "alias",
        "the champion before, by the run",
    ),
    "another version with the tags of this one": (
        copied_version,
        "alias",
        "its run registered version 2, not 3",
    ),
}
"""Each with what is done, the check that has to name it, and words of its answer."""
ON_VERSION_3 = {"another version with the tags of this one"}
