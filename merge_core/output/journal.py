"""The journal of a merge: which tensors are in place, and which of them a crash cannot have lost.

One line for each finished tensor. After a kill its lines hold, since the kernel still has the
written pages; after a crash of the machine, or seen from another one, only those before the last
`sync` line do, which is written once the data is on disk. The boot id tells machines and their
crashes apart.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from merge_core.output.working_directory import read_plain, write_whole

_SYNC = "sync"


class Journal:
    """One writer's list of finished tensors, on disk. A plan's journals are read together."""

    def __init__(self, path: Path, plan: str, attempt: str, finished: Iterable[int] = ()) -> None:
        """Begin a journal in the place of any earlier one.

        Args:
            plan: the plan's digest.
            attempt: names the preallocated files that the lines are about.
            finished: indices of tensors that are in place already.

        Raises:
            OSError: it cannot be written.
        """
        writer = {"boot": boot_id(), "pid": os.getpid()}
        head = json.dumps({"plan": plan, "attempt": attempt, **writer})
        write_whole(path, "\n".join([head, *map(str, sorted(finished)), ""]))
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def note(self, index: int) -> None:
        """A tensor's bytes are all written."""
        os.write(self._descriptor, f"{index}\n".encode())

    def note_synced(self) -> None:
        """All that was noted so far is on disk."""
        os.write(self._descriptor, f"{_SYNC}\n".encode())
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the file; its lines stay."""
        os.close(self._descriptor)


def attempt_of(path: Path, plan: str) -> str | None:
    """The attempt that a journal is about, or None if there is none of this plan."""
    return _read(path, plan)[0]


def vouched_for(paths: Iterable[Path], plan: str, attempt: str, tensors: int) -> set[int]:
    """The tensors that are in place according to the journals of one attempt.

    Args:
        tensors: number of tensors of the plan; other lines are ignored.
    """
    found: set[int] = set()
    for path in paths:
        about, lines = _read(path, plan)
        if about == attempt:
            found.update(int(line) for line in lines if line.isdecimal() and int(line) < tensors)
    return found


def boot_id() -> str:
    """Names this machine between two of its starts."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def _read(path: Path, plan: str) -> tuple[str | None, list[str]]:
    """A journal's attempt and its lines that hold."""
    try:
        # A line without an end was cut off by a kill.
        head_line, *lines = read_plain(path).decode().split("\n")[:-1]
        head = json.loads(head_line)
        about, attempt, boot = head["plan"], head["attempt"], head["boot"]
    except (OSError, ValueError, KeyError, TypeError):
        return None, []
    if about != plan:
        return None, []
    if boot != boot_id():
        synced = [number for number, line in enumerate(lines) if line == _SYNC]
        lines = lines[: synced[-1]] if synced else []
    return str(attempt), lines
