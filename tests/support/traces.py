"""What a merge did until it ended or was killed: its progress and its file operations, in order.

A trace is a file of which every line is written at once, so that a kill leaves all before it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from merge_core.progress import ProgressEvent

PHASES = (
    "starting",
    "hashing inputs",
    "verifying and planning",
    "preparing",
    "first passes",
    "streaming",
    "config and index",
    "sealing",
    "publishing",
)
"""What a merge does, in its order. `first passes` are those over the whole model."""


class Trace:
    """A trace in the making, by the process that it is of."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = str(path)
        self.when_noted: Callable[[str], None] | None = None
        """Called after each line with the line, in the thread that noted it."""
        self._descriptor = descriptor
        self._lock = threading.Lock()

    @classmethod
    def begin(cls, path: Path) -> Trace:
        """An empty trace."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        return cls(path, os.open(path, flags, 0o600))

    def note_progress(self, event: ProgressEvent) -> None:
        """A listener for progress."""
        self._note(f"progress\t{event.stage}\t{event.done}\t{event.total}")

    def note_operation(self, operation: str, paths: list[str]) -> None:
        """A file operation that is about to be done: `read`, `write` or python's audit event."""
        self._note("\t".join(["operation", *paths, operation]))

    def _note(self, line: str) -> None:
        with self._lock:
            os.write(self._descriptor, line.encode() + b"\n")
            if self.when_noted is not None:
                self.when_noted(line)


def lines_of(path: Path) -> list[list[str]]:
    """The lines of a trace, each in its fields; none when it was never begun."""
    if not path.exists():
        return []
    return [line.split("\t") for line in path.read_text().splitlines()]


def bytes_taken_over(lines: list[list[str]]) -> int:
    """Bytes of the result that were in place before the run computed any: the first progress of
    the stage `merge` says so."""
    return next(int(fields[2]) for fields in lines if fields[:2] == ["progress", "merge"])


def phase_of(lines: list[list[str]], target: Path) -> str:
    """How far a run had come when its trace ended. `target` is the place of the checkpoint, or
    the directory of the store where it will be."""
    reached = 0
    for fields in lines:
        reached = max(reached, _reached_by(fields, str(target)))
    return PHASES[reached]


def _reached_by(fields: list[str], target: str) -> int:
    if fields[0] == "progress":
        stage = fields[1]
        if stage.startswith("hash "):
            done = int(fields[2]) == int(fields[3])
            return PHASES.index("verifying and planning" if done else "hashing inputs")
        named = {"merge": "streaming", "hash": "streaming", "model statistics": "first passes"}
        return PHASES.index(named.get(stage.rstrip(" 0123456789"), "starting"))
    path, operation = fields[-2:]
    if operation == "read":
        return 0
    last = os.path.basename(path)  # noqa: PTH119
    if operation == "os.rename" and path.startswith(target):
        return PHASES.index("publishing")
    if last in ("SHA256SUMS", "mergeflow_manifest.json"):
        return PHASES.index("sealing")
    if last == "config.json" or last.endswith(".index.json"):
        return PHASES.index("config and index")
    return PHASES.index("preparing" if last.endswith((".safetensors", "lock")) else "starting")
