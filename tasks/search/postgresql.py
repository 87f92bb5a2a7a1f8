"""Searches in a PostgreSQL that homes may share: its locks, and what it says, in our words."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_core.errors import MergeflowError, RecipeError, StepError, one_line
from merge_core.files.strict_yaml import load_yaml
from merge_core.homes.home import Home
from tasks.servers.database_addresses import (
    VARIABLE,
    check_postgresql,
    refuse_open_passwords,
    with_scheme,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

_KEY = "search_database"
_OURS = 0x6D667365
"""First of an advisory lock's two numbers."""
_TABLES = 0
"""The second one, while tables are made; else it is the search's."""
CONNECTING: dict[str, Any] = {"connect_timeout": 10}


def read_search_database(home: Home) -> str | None:
    """Where a home's new searches are kept, with the password; None: in its `search.db`.

    Nothing else of `stack.yaml` is filled in: the passwords of the servers are not needed.

    Raises:
        MergeflowError: it does not say something meaningful, or shows a password to other users.
    """
    path = home.stack_file
    values = load_yaml(path) if path.exists() else {}
    address = values.get(_KEY)
    if not address:
        return None
    refuse_open_passwords(path, {_KEY: address})
    refuse_variables_of_searches(path, values)
    try:
        check_postgresql(str(address))
    except ValueError as error:
        raise RecipeError(str(error), where=f"{path}: {_KEY}") from None
    return with_scheme(str(address), "postgresql+psycopg2")


def refuse_variables_of_searches(path: Path, values: Mapping[str, Any]) -> None:
    """A search runs in a worker, too, which is given none of the servers' variables.

    Raises:
        MergeflowError: the database of searches is named with one.
    """
    if VARIABLE.search(str(values.get(_KEY))):
        raise MergeflowError(
            f"{_KEY} takes no variable: workers search, too, and are given none of those that hold"
            " passwords",
            where=str(path),
            mend=f"write the password into ~/.pgpass, or into the address (then: chmod 600 {path})",
        )


@contextlib.contextmanager
def in_words(address: str | None) -> Iterator[None]:
    """Around work with the database: what it refuses is told with its place.

    Args:
        address: None: SQLite, whose faults `storage` tells.

    Raises:
        StepError: PostgreSQL does not answer, or refuses something.
    """
    if address is None:
        yield
        return
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        raise StepError(
            f"PostgreSQL says: {one_line(getattr(cause, 'orig', None) or cause or error)}",
            where=address,
            mend="start it, and see that search_database in stack.yaml names an existing database"
            " and its owner; the same command goes on where this one was",
        ) from None


@contextlib.contextmanager
def making_tables(address: str) -> Iterator[None]:
    """Hold the database while tables are made: of two that find none, each would make them all."""
    with _connected(address) as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({_OURS}, {_TABLES})")
        yield


@contextlib.contextmanager
def alone_in(address: str | None, identity: str) -> Iterator[None]:
    """Hold a search against other homes and machines; PostgreSQL lets go when this process dies.

    Raises:
        StepError: another one runs it.
    """
    if address is None:
        yield
        return
    with _connected(address) as connection:
        number = zlib.crc32(identity.encode()) - (1 << 31)
        tried = connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({_OURS}, {number})")
        if not tried.scalar():
            raise StepError(
                "this search runs already, in another home or on another machine",
                where=address,
                mend="wait until it ends, or end it; then run the same command again",
            )
        yield


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Connection]:
    if find_spec("psycopg2") is None:
        raise MergeflowError(
            "search_database needs psycopg2, which this installation lacks",
            where="stack.yaml",
            mend="python -m pip install -c constraints.txt -e '.[scale-out]'",
        )
    from sqlalchemy import NullPool, create_engine

    # No transaction: one that lasts as long as a search would keep PostgreSQL from tidying up.
    engine = create_engine(
        address, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=CONNECTING
    )
    with contextlib.ExitStack() as stack:
        with in_words(address):
            connection = stack.enter_context(engine.connect())
        yield connection
