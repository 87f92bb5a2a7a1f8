"""One move of an alias at a time, among the processes that use one home.

MLflow has no conditional write: between the look at who holds the alias and the move, another
client can move it. Our own commands take a lock for that moment. A client that knows nothing of it,
or a command of another home, can still race; what it did is seen when the alias is read back, and
at the next move.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

from merge_core.errors import OutputError
from merge_core.files.locks import try_lock
from merge_core.files.private import open_private
from merge_core.homes.home import Home
from tasks.registry.client import RegistryUnreachableError

WAIT = 60.0
"""Seconds that a command waits for its turn."""
_AGAIN = 0.05


@contextlib.contextmanager
def alias_lock(home: Home, wait: float = WAIT) -> Iterator[None]:
    """Hold the home's lock for moves of aliases; the kernel releases it, also of a killed process.

    Args:
        wait: seconds to wait for another process, which holds it for less than a second.

    Raises:
        OutputError: the home cannot be written to.
        RegistryUnreachableError: another process holds it all that time.
        OSError: the file system of the home has no locks.
    """
    path = home.history / "alias.lock"
    try:
        descriptor = open_private(path)
    except OSError as error:
        raise OutputError(
            f"the lock for moves of aliases cannot be made: {error.strerror}",
            where=str(path),
            mend="see that you may write there and that there is room, then run it again",
        ) from error
    with os.fdopen(descriptor, "wb") as file:
        wait_for_turn(
            lambda: try_lock(file.fileno(), path),
            wait,
            "another command of this home has been moving an alias for a minute",
            where=str(path),
        )
        yield


def wait_for_turn(try_it: Callable[[], bool], wait: float, refusal: str, where: str) -> None:
    """Try to take a lock until it is ours.

    Args:
        refusal: what is said when another process held it for `wait` seconds.

    Raises:
        RegistryUnreachableError: one did.
    """
    until = time.monotonic() + wait
    while not try_it():
        if time.monotonic() > until:
            mend = "end it if it hangs, and run the same command again"
            raise RegistryUnreachableError(refusal, where=where, mend=mend)
        time.sleep(_AGAIN)
