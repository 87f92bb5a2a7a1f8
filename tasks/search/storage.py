"""Optuna's databases of a home's searches, and quiet while Optuna works.

There is `search.db` of the home. Where its `stack.yaml` names a `search_database`, new searches are
kept in that PostgreSQL; one that was begun in `search.db` goes on there.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_core.errors import StepError, one_line
from merge_core.files.locks import held, lock_file
from merge_core.files.private import private_umask
from merge_core.homes.home import Home
from tasks.search.postgresql import CONNECTING, in_words, making_tables

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

_SQLITE = {"timeout": 60}
"""Seconds, for another process that writes."""
_BEGIN_ANEW = (
    "it is damaged: restore it, or move it out of this home. Searches then begin anew, and pay for"
    " no evaluation that the home's cache has"
)
_MAKE_ROOM = (
    "see that there is room and that you may write there; the same command goes on where this one"
    " was"
)
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


@contextmanager
def at_work(home: Home, address: str | None) -> Iterator[None]:
    """Around work with a database of searches: quiet, and what it refuses told in our words.

    Args:
        address: None: the home's `search.db`.

    Raises:
        StepError: it does not answer, refuses something, or is damaged.
    """
    with quiet(), in_words(address), _of_a_file(database(home)):
        yield


@contextmanager
def _of_a_file(path: Path) -> Iterator[None]:
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DatabaseError

    try:
        yield
    except (DatabaseError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        told = getattr(cause, "orig", None) or cause or error
        if not isinstance(told, sqlite3.Error):
            raise
        raise StepError(
            f"SQLite says: {one_line(told)}",
            where=str(path),
            mend=_BEGIN_ANEW if _is_damage(told) else _MAKE_ROOM,
        ) from None


def _is_damage(error: sqlite3.Error) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def database(home: Home) -> Path:
    """Where the searches of a home are kept."""
    return home.path / "search.db"


def holder(home: Home, address: str | None, study: str) -> str | None:
    """The address that a search is kept at, or is to be; None: the home's `search.db`."""
    if address is None:
        return None
    begun = to_read(home)
    if begun is None:
        return address
    with at_work(home, None):
        import optuna

        return None if study in optuna.get_all_study_names(begun) else address


def to_write(home: Home, address: str | None = None) -> RDBStorage:
    """The home's database, or the one at an address, with tables where there are none.

    Raises:
        StepError: PostgreSQL does not answer, or refuses something.
    """
    if address is not None:
        with making_tables(address), at_work(home, address):
            return _opened(address, connect_args=CONNECTING, pool_pre_ping=True)
    with private_umask():
        database(home).parent.mkdir(parents=True, exist_ok=True)
        # Of two processes that find no table, each would make them all.
        lock = lock_file(database(home).with_name("search.db.lock"), 0o600)
    with held(lock), private_umask(), at_work(home, None):
        return _opened(f"sqlite:///{database(home)}", connect_args=_SQLITE)


def to_read(home: Home) -> RDBStorage | None:
    """The home's database to look at, also where nothing can be written; None: there is none."""
    path = database(home)
    if not path.exists():
        return None
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return to_write(home)  # after a crash, SQLite tidies up before it reads
    address = f"sqlite:///{path.absolute().as_uri()}?mode=ro&uri=true"
    with at_work(home, None):
        return _opened(address, made=True, connect_args=_SQLITE)


def _opened(address: str, *, made: bool = False, **engine: Any) -> RDBStorage:
    """
    Args:
        made: take the tables as they are, write nothing.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # what fails is raised as well
    try:
        return optuna.storages.RDBStorage(
            address,
            engine_kwargs=engine,
            skip_compatibility_check=made,
            skip_table_creation=made,
        )
    except RuntimeError:
        raise StepError(
            f"another version of Optuna made these tables than the one here, {optuna.__version__}",
            where=address.removeprefix("sqlite:///"),
            mend="use the mergeflow that began these searches, or a newer one",
        ) from None
