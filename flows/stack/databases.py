"""The servers that `stack.yaml` names, looked at before a stack is started on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from flows.stack.config import StackConfig
from merge_core.errors import MergeflowError, StepError, one_line
from tasks.servers.database_addresses import shown_place

_OLDEST_POSTGRESQL = 14_00_09
"""14.9, as PostgreSQL counts; Prefect needs it."""
_STACK_LOCK = 0x6D65726765
"""Advisory lock that a stack holds in Prefect's database, for as long as `mergeflow up` lives."""
_MLFLOW_LOCK = 0x6D65726768
"""Advisory lock of whoever has to be told from other databases; any number may hold it."""
_HOLDS_LOCK = """
    SELECT 1 FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE datname = current_database() AND locktype = 'advisory'
    AND pid = %s AND classid::bigint = %s AND objid::bigint = %s
"""
"""Whether a session holds it in this database: then it is the same one, whatever its address."""
_CONNECT_SECONDS = 10


@contextlib.contextmanager
def only_one_on(config: StackConfig) -> Iterator[None]:
    """Hold the databases for one stack; PostgreSQL lets go of them when this process dies.

    Raises:
        MergeflowError: another stack holds them, PostgreSQL is too old, or packages are missing.
        StepError: one of the servers does not answer or refuses the user.
    """
    if not (config.prefect_database and config.mlflow_database):
        yield
        return
    _require_packages()
    with (
        _connected(config.prefect_database) as prefect,
        _connected(config.mlflow_database) as mlflow,
    ):
        if config.redis:
            _try_redis(config.redis)
        version = prefect.server_version
        if version < _OLDEST_POSTGRESQL:
            raise MergeflowError(
                f"this is PostgreSQL {version // 10_000}.{version % 10_000}",
                where=shown_place(config.prefect_database),
                mend="use PostgreSQL 14.9 or newer, which Prefect needs",
            )
        with prefect.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [_STACK_LOCK])
            if not cursor.fetchone()[0]:
                raise MergeflowError(
                    "another `mergeflow up` uses this database, maybe on another machine or with"
                    " another data directory",
                    where=shown_place(config.prefect_database),
                    mend="stop that one first, or name another database in stack.yaml",
                )
        with mlflow.cursor() as cursor:
            cursor.execute(_HOLDS_LOCK, [prefect.info.backend_pid, *divmod(_STACK_LOCK, 1 << 32)])
            if cursor.fetchone():
                raise MergeflowError(
                    "prefect_database and mlflow_database are the same database, and both programs"
                    " call their table of versions alembic_version",
                    where=shown_place(config.mlflow_database),
                    mend="give each its own in stack.yaml",
                )
        if config.search_database:
            _look_at_searches(config.search_database, prefect, mlflow)
        yield


def _look_at_searches(address: str, prefect: Any, mlflow: Any) -> None:
    """See that searches have a database of their own; `mlflow` holds a lock from then on.

    Raises:
        MergeflowError: it is one of the others.
        StepError: it does not answer, or refuses the user.
    """
    with mlflow.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock_shared(%s)", [_MLFLOW_LOCK])
    others = {
        "prefect_database": (prefect, _STACK_LOCK),
        "mlflow_database": (mlflow, _MLFLOW_LOCK),
    }
    with _connected(address) as searches, searches.cursor() as cursor:
        for key, (other, lock) in others.items():
            cursor.execute(_HOLDS_LOCK, [other.info.backend_pid, *divmod(lock, 1 << 32)])
            if cursor.fetchone():
                raise MergeflowError(
                    f"{key} and search_database are the same database, and both programs call"
                    " their table of versions alembic_version",
                    where=shown_place(address),
                    mend="give each its own in stack.yaml",
                )


def _require_packages() -> None:
    missing = [name for name in ("psycopg2", "prefect_redis") if find_spec(name) is None]
    if missing:
        raise MergeflowError(
            f"needs {' and '.join(missing)}, which this installation lacks",
            where="stack.yaml",
            mend="python -m pip install -c constraints.txt -e '.[scale-out]'",
        )


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Any]:
    import psycopg2

    try:
        connection = psycopg2.connect(address, connect_timeout=_CONNECT_SECONDS)
    except psycopg2.Error as error:
        raise StepError(
            f"PostgreSQL says: {str(error).strip()}",
            where=shown_place(address),
            mend="start it, and see that stack.yaml names an existing database and its owner",
        ) from None
    with contextlib.closing(connection):
        connection.autocommit = True
        yield connection


def _try_redis(address: str) -> None:
    import redis

    try:
        with redis.Redis.from_url(address, socket_connect_timeout=_CONNECT_SECONDS) as client:
            client.ping()
    except (redis.RedisError, ValueError) as error:
        raise StepError(
            f"Redis says: {one_line(error)}",
            where=shown_place(address),
            mend="start it, and see that stack.yaml names its address and password",
        ) from None
