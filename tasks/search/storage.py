"""Optuna's database of a home's searches, and quiet while Optuna works."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from merge_core.files.locks import held, lock_file
from merge_core.files.private import private_umask
from merge_core.homes.home import Home

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

_WAIT = 60
"""Seconds, for another process that writes."""
_filters = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep to itself what Optuna warns of: it speaks to programmers, not to who searches.

    Around every call of it. The filters of warnings are the whole process's, so it is one thread at
    a time: two that put them back in another order than they changed them would lose them.
    """
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def database(home: Home) -> Path:
    """Where the searches of a home are kept."""
    return home.path / "search.db"


def to_write(home: Home) -> RDBStorage:
    """The home's database, made where there is none."""
    with private_umask():
        database(home).parent.mkdir(parents=True, exist_ok=True)
        # Of two processes that find no table, each would make them all.
        lock = lock_file(database(home).with_name("search.db.lock"), 0o600)
    with held(lock), private_umask():
        return _opened(f"sqlite:///{database(home)}", {"timeout": _WAIT})


def to_read(home: Home) -> RDBStorage | None:
    """The home's database to look at, also where nothing can be written; None: there is none."""
    path = database(home)
    if not path.exists():
        return None
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return to_write(home)  # after a crash, SQLite tidies up before it reads
    address = f"sqlite:///{path.absolute().as_uri()}?mode=ro&uri=true"
    return _opened(address, {"timeout": _WAIT}, made=True)


def _opened(address: str, arguments: dict[str, object], *, made: bool = False) -> RDBStorage:
    """
    Args:
        made: take the tables as they are, write nothing.
    """
    with quiet():
        import optuna

        optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # what fails is raised as well
        return optuna.storages.RDBStorage(
            address,
            engine_kwargs={"connect_args": arguments},
            skip_compatibility_check=made,
            skip_table_creation=made,
        )
