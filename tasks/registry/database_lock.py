"""PostgreSQL's own lock for moves of an alias, where the registry's address is that of a database.

The home's lock reaches the processes of one home. An address of a PostgreSQL is the same for all
homes, and so is its advisory lock. Behind an MLflow server the database is not known to us: there
the home's lock, and reading back, are what there is.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator

from tasks.registry.alias_lock import WAIT, wait_for_turn
from tasks.registry.client import strip_credentials

_SCHEMES = ("postgresql", "postgres")
_OURS = 0x6D66616C
"""First of the lock's two numbers; the second one is the model's."""


@contextlib.contextmanager
def database_lock(tracking_uri: str, name: str, wait: float = WAIT) -> Iterator[None]:
    """Hold the lock of a model for the block; PostgreSQL lets go of it when this process dies.

    Args:
        wait: seconds to wait for another process.

    Raises:
        RegistryUnreachableError: another process holds it all that time.
    """
    if not tracking_uri.startswith(_SCHEMES):
        yield
        return
    from sqlalchemy import NullPool, create_engine, text

    number = zlib.crc32(name.encode()) - (1 << 31)
    try_it = text(f"SELECT pg_try_advisory_lock({_OURS}, {number})")
    # No transaction: one that waits for so long would keep PostgreSQL from tidying up.
    engine = create_engine(tracking_uri, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        wait_for_turn(
            lambda: bool(connection.execute(try_it).scalar()),
            wait,
            f"another command has been moving the alias of {name} for a minute",
            where=strip_credentials(tracking_uri),
        )
        yield
