"""Errors of the world around the program, in words: disks, memory, servers. None of them is a bug.

What ends a command without a sentence of its own is looked at here, with everything that it was
caused by, before anyone is told of a bug.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from merge_core.errors import (
    TO_FREE_MEMORY,
    HomeError,
    MergeflowError,
    StepError,
    one_line,
)
from merge_core.open_files import TO_RAISE

_NO_LOCKS = (
    "that file system has no locks: mount it with locks, or name a place on another disk (a home:"
    " MERGEFLOW_HOME=PATH)"
)
_MENDS: dict[int, str] = {
    errno.ENOSPC: "free some space on that disk, or name a home on another (MERGEFLOW_HOME=PATH),"
    " and run the same command again",
    errno.EDQUOT: "your quota there is used up: free some space, and run the same command again",
    errno.EROFS: "that file system is read-only: name another place (a home: MERGEFLOW_HOME=PATH)",
    errno.EACCES: "get permission there, or name another place (for a home MERGEFLOW_HOME=PATH)",
    errno.EPERM: "get permission there, or name another place (for a home MERGEFLOW_HOME=PATH)",
    errno.ENOTDIR: "a part of that path is a file: name another place",
    errno.EISDIR: "that is a directory: name a file",
    errno.ENAMETOOLONG: "write a shorter name",
    errno.EIO: "look after that disk or network, and run the same command again",
    errno.ESTALE: "look after that network disk, and run the same command again",
    errno.ENOLCK: _NO_LOCKS,
    errno.EOPNOTSUPP: _NO_LOCKS,
    errno.EMFILE: TO_RAISE,
    errno.ENFILE: TO_RAISE,
}
_DATABASE = (
    ("database or disk is full", errno.ENOSPC),
    ("attempt to write a readonly database", errno.EROFS),
    ("unable to open database file", errno.EACCES),
    ("disk i/o error", errno.EIO),
)
_NO_MEMORY = ("can't start new thread", "can't allocate memory", "not enough memory")
"""What Python and torch say in a RuntimeError."""
_UNREACHABLE = ("ConnectError", "ConnectTimeout", "ReadTimeout", "WriteTimeout", "PoolTimeout")
_BROKEN_OFF = ("ReadError", "WriteError", "RemoteProtocolError")
_NO_ADDRESS = ("UnsupportedProtocol", "InvalidURL", "LocalProtocolError")


def outside_fault(error: BaseException) -> MergeflowError | None:
    """The sentence for an error of the world outside; None for one that is ours."""
    for each in _with_causes(error):
        found = _of_memory(each) or _of_the_system(each) or _of_a_server(each)
        if found is not None:
            return found
    return None


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in seen:
        yield each
        seen.append(each)
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def _of_memory(error: BaseException) -> MergeflowError | None:
    said = one_line(error)
    is_short = isinstance(error, MemoryError)
    is_short |= isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN)
    is_short |= isinstance(error, RuntimeError) and any(words in said for words in _NO_MEMORY)
    if not is_short:
        return None
    return StepError(
        "the system gives this process no more memory, threads or processes"
        + (f": {said[:200]}" if said else ""),
        mend=TO_FREE_MEMORY,
    )


def _of_the_system(error: BaseException) -> MergeflowError | None:
    number = error.errno if isinstance(error, OSError) else None
    place = getattr(error, "filename", None)
    if type(error).__name__ == "OperationalError":  # of sqlite3, and of sqlalchemy around it
        said = one_line(error).lower()
        number = next((number for words, number in _DATABASE if words in said), None)
        place = "a database of the home"
    if number not in _MENDS:
        return None
    return HomeError(
        f"cannot be read or written: {os.strerror(number)}",
        where=os.fsdecode(place) if place else None,
        mend=_MENDS[number],
    )


def _of_a_server(error: BaseException) -> MergeflowError | None:
    name, said = type(error).__name__, one_line(error)
    if type(error).__module__.partition(".")[0] not in ("httpx", "httpcore"):
        if not (isinstance(error, RuntimeError) and said.startswith("Failed to reach API at")):
            return None
        name = _UNREACHABLE[0]
    if name not in (*_UNREACHABLE, *_BROKEN_OFF, *_NO_ADDRESS):
        return None
    return unreachable_server(os.environ.get("PREFECT_API_URL", ""), error)


def unreachable_server(address: str, error: BaseException) -> StepError:
    """The error for a Prefect server that does not answer, or an address that is none."""
    if type(error).__name__ in _NO_ADDRESS:
        return StepError(
            "this is no address of a Prefect server",
            where=f"PREFECT_API_URL={address}",
            mend="write it as http://HOST:4200/api; or leave PREFECT_API_URL out: then a server is"
            " started for the command",
        )
    broken = type(error).__name__ in _BROKEN_OFF
    return StepError(
        "the Prefect server stopped answering" if broken else "no Prefect server answers here",
        where=f"PREFECT_API_URL={address}" if address else "Prefect",
        mend="start that server and run the same command again, which goes on where this one was;"
        " or leave PREFECT_API_URL out: then a server is started for the command",
    )
