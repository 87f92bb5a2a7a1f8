"""The errors a person can act on: what was wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from merge_core.open_files import TO_RAISE
from merge_core.text.plain import plain

# The second form is that of an address which was taken for a path; `models:/name@alias` is none.
_PASSWORD = re.compile(r"(://)[^/\s?#]*@|(:/)[^/\s?#:]+:[^/\s?#]*@")
SECRET_WORDS = "passw|secret|token|key|signature|credential"
"""In the name of a query's parameter: its value is a secret. A regular expression."""
_QUERY_SECRET = re.compile(rf"([?&][^=&#\s]*(?:{SECRET_WORDS})[^=&#\s]*=)[^&#\s'\"]+", re.I)
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")


class MergeflowError(Exception):
    """What went wrong, where (YAML path, file, tensor) and how to mend it.

    `str(error)` is the whole message a user sees; a traceback is only ever for bugs. Messages go to
    terminals, logs and databases: a password in an address is taken out here, once for all, and a
    name that a stranger chose neither forges a line nor sends a terminal anything to obey.

    Args:
        details: lines between what was wrong and what to do: a list, the end of a log.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        mend: str | None = None,
        details: Sequence[str] = (),
    ) -> None:
        self.what = without_passwords(what)
        self.where = without_passwords(where) if where else where
        self.mend = without_passwords(mend) if mend else mend
        self.details = tuple(map(without_passwords, details))
        super().__init__(self.what)

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        mend = (f"  what to do: {self.mend}",) if self.mend else ()
        return "\n".join(map(plain, (head, *self.details, *mend)))

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.mend, self.details))


def _rebuild(
    kind: type[MergeflowError],
    what: str,
    where: str | None,
    mend: str | None,
    details: Sequence[str] = (),
) -> MergeflowError:
    return kind(what, where=where, mend=mend, details=details)


def error_values(error: MergeflowError) -> dict[str, Any]:
    """An error as JSON, for a process that cannot raise it here."""
    return {
        "kind": type(error).__name__,
        "what": error.what,
        "where": error.where,
        "mend": error.mend,
        "details": list(error.details),
    }


def error_from(values: Mapping[str, Any]) -> MergeflowError:
    """The error that `error_values` was given; an unknown kind is a `StepError`."""
    return error_kind(values["kind"])(
        values["what"] or "",
        where=values["where"],
        mend=values["mend"],
        details=values.get("details", ()),
    )


def error_kind(name: str | None) -> type[MergeflowError]:
    """The class of this name, or `StepError` if there is none."""
    kinds = [*MergeflowError.__subclasses__()]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return next((kind for kind in kinds if kind.__name__ == name), StepError)


class RecipeError(MergeflowError):
    """A recipe or pipeline file that does not say something meaningful."""


class NoSuchFileError(RecipeError):
    """A file that a person named, and that is not there."""


class HomeError(MergeflowError):
    """A data directory that is not believed, or cannot be made or kept as it should be."""


class CheckpointError(MergeflowError):
    """A checkpoint that is missing, damaged, hostile or of a kind that is refused."""


class UnreadableError(CheckpointError):
    """A file that cannot be read now: a failing disk, a lost mount, permissions. What a merge has
    done so far is kept."""


class CompatibilityError(MergeflowError):
    """Checkpoints that are each sound but do not belong in one merge."""


class OutputError(MergeflowError):
    """The result cannot be written: the place exists, is full, or is not writable."""


class NonFiniteError(CheckpointError):
    """NaN or infinity in a tensor that was read or would be written."""


class StepError(MergeflowError):
    """A pipeline step failed for a reason outside the inputs (evaluation died, server away)."""


TO_FREE_MEMORY = (
    "free some memory, or allow more (`ulimit -v`, `ulimit -u`, a container's limits), and run the"
    " same command again"
)
"""What to do where memory, threads or processes run out: the limits of one end the others, too."""


def one_line(error: BaseException) -> str:
    """What another library's exception says, which may be several lines."""
    return " ".join(str(error).split())


def unreadable(path: object, error: OSError, what: str = "cannot be read") -> UnreadableError:
    """What the system said of a file that cannot be read, with what to do about it."""
    mends: dict[int | None, str] = {
        errno.EACCES: "get permission to read it",
        errno.EPERM: "get permission to read it",
        errno.ENOENT: "put it back",
    }
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return UnreadableError(f"{what}: {error.strerror}", where=str(path), mend=TO_RAISE)
    if error.errno == errno.ENOMEM:
        return UnreadableError(f"{what}: {error.strerror}", where=str(path), mend=TO_FREE_MEMORY)
    mend = mends.get(error.errno, "look after the disk or the network that it is on")
    return UnreadableError(
        f"{what}: {error.strerror}",
        where=str(path),
        mend=f"{mend}, and run the same command again",
    )


def refused(error: CheckpointError) -> str:
    """What is wrong with a file or directory, in words.

    Raises:
        UnreadableError: nothing is known to be wrong: it is there, and cannot be read now.
    """
    gone = isinstance(error.__cause__, FileNotFoundError | NotADirectoryError)
    if isinstance(error, UnreadableError) and not gone:
        raise error
    return error.what


def without_passwords(text: str) -> str:
    """A text with `user:password@`, `token@`, `?token=...` and the Hub's tokens taken out."""
    text = _PASSWORD.sub(lambda match: match[1] or match[2], text)
    return _HUB_TOKEN.sub("hf_...", _QUERY_SECRET.sub(r"\1...", text))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`", did you mean 'x'?"` for the closest known name, else the list of known names."""
    names = sorted(known)
    plain = {_plainly(each): each for each in names}
    close = difflib.get_close_matches(_plainly(name), plain, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{plain[close[0]]}'?"
    return "known here: " + ", ".join(names) if names else "nothing is allowed here"


def _plainly(name: str) -> str:
    """A name as it is compared, in whatever case and with whatever dash it is written."""
    return name.lower().replace("-", "_")
