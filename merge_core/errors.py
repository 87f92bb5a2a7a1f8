"""The errors a person can act on: what was wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MergeflowError(Exception):
    """What went wrong, where (YAML path, file, tensor) and how to mend it.

    `str(error)` is the whole message a user sees; a traceback is only ever for bugs.
    """

    def __init__(self, what: str, *, where: str | None = None, mend: str | None = None) -> None:
        self.what = what
        self.where = where
        self.mend = mend
        super().__init__(what)

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  what to do: {self.mend}" if self.mend else head

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.mend))


def _rebuild(
    kind: type[MergeflowError], what: str, where: str | None, mend: str | None
) -> MergeflowError:
    return kind(what, where=where, mend=mend)


class RecipeError(MergeflowError):
    """A recipe or pipeline file that does not say something meaningful."""


class CheckpointError(MergeflowError):
    """A checkpoint that is missing, damaged, hostile or of a kind that is refused."""


class CompatibilityError(MergeflowError):
    """Checkpoints that are each sound but do not belong in one merge."""


class OutputError(MergeflowError):
    """The result cannot be written: the place exists, is full, or is not writable."""


class NonFiniteError(CheckpointError):
    """NaN or infinity in a tensor that was read or would be written."""


class StepError(MergeflowError):
    """A pipeline step failed for a reason outside the inputs (evaluation died, server away)."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`", did you mean 'x'?"` for the closest known name, else the list of known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return "known here: " + ", ".join(names) if names else "nothing is allowed here"
