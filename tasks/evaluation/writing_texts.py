"""Writes the text of documents, as lm-eval gives them, to files. In evaluation processes only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def write_texts(
    entries: Sequence[Mapping[str, Any]],
    wanted: Sequence[Sequence[str]],
    directory: Path,
    most_bytes: int,
) -> list[dict[str, Any]]:
    """Write a file for each entry of a suite: `0.jsonl`, `1.jsonl` and so on.

    Each line is a document that is wanted, with the id that the entry's score has for it.

    Args:
        entries: the lm-eval tasks of each entry by name: one, or the members of a group.
        wanted: the ids, for each entry.
        most_bytes: of all files together. An entry that does not fit any more has no file.

    Returns:
        For each entry how many of its documents are not there, and whether it is too large.
    """
    directory.mkdir()
    found: list[dict[str, Any]] = []
    for place, (leaves, ids) in enumerate(zip(entries, wanted, strict=True)):
        path = directory / f"{place}.jsonl"
        missing, size = set(ids), 0
        with path.open("wb") as file:
            for line in _lines(leaves, missing):
                size += len(line)
                if size > most_bytes:
                    break
                file.write(line)
        is_too_large = size > most_bytes
        if is_too_large or missing:
            path.unlink()
        else:
            most_bytes -= size
        found.append({"missing": len(missing), "too_large": is_too_large})
    return found


def _lines(leaves: Mapping[str, Any], missing: set[str]) -> Iterator[bytes]:
    """A line for each document that is missing, which it then is not any more."""
    from lm_eval.utils import handle_non_serializable, hash_string

    for name, task in leaves.items():
        for document in task.eval_docs:
            if not missing:
                return
            # What lm-eval computes the digest of a document from.
            text = json.dumps(
                document, indent=2, default=handle_non_serializable, ensure_ascii=False
            )
            digest = hash_string(text)
            known_by = digest if len(leaves) == 1 else f"{name}:{digest}"
            if known_by in missing:
                missing.remove(known_by)
                line = {"doc_id": known_by, "doc": json.loads(text)}
                yield json.dumps(line, ensure_ascii=False).encode() + b"\n"
