"""What a check of checkpoints found: one sentence for the person who must act, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from merge_core.records import Record
from merge_core.text.plain import plain

Severity = Literal["error", "warning", "info"]


class Finding(Record):
    """One thing that was found out about one checkpoint, alone or against the base."""

    severity: Severity
    """`error`: a merge would be wrong. `warning`: it may be. `info`: good to know."""
    code: str
    """Stable name of the kind of finding, e.g. `shapes-differ`."""
    subject: str
    """Reference of the checkpoint it is about."""
    message: str
    mend: str | None = None
    """What to do about it; every error has one."""
    where: str | None = None
    """File, tensor or config key, if one can be named."""

    def __str__(self) -> str:
        head = plain(f"{self.subject}: {self.message}")
        return f"{head}\n  what to do: {plain(self.mend)}" if self.mend else head


def some(items: Iterable[object], limit: int = 3) -> str:
    """The first few of a collection in words: `a, b, c and 5 more`; none of them endless."""
    listed = [str(item) for item in items]
    shown = ", ".join(plain(each, 200) for each in listed[:limit])
    rest = len(listed) - limit
    return f"{shown} and {rest} more" if rest > 0 else shown


def counted(count: int, noun: str) -> str:
    """`1 tensor`, `1,024 tensors`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def printable(text: object, limit: int = 120) -> str:
    """What a stranger's file says as part of a sentence: on one line, not endless."""
    return plain(text, limit)
