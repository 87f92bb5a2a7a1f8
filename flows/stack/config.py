"""Where `mergeflow up` keeps its records, and how many workers it starts: `stack.yaml` in the home.

Without databases named there: SQLite under the home, one worker. With them: PostgreSQL, and Redis
between the processes of Prefect. Passwords come from the environment, from `~/.pgpass`, or from the
file if nobody else can read it; they reach the servers in their environment alone.
"""

from __future__ import annotations

import os
import re
from urllib.parse import parse_qsl, quote, urlencode

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from flows.servers.request_origin import read_authority
from merge_core.errors import MergeflowError
from merge_core.files.strict_yaml import load_yaml, validated
from merge_core.homes.home import Home
from tasks.search.postgresql import refuse_variables_of_searches
from tasks.servers.database_addresses import (
    VARIABLE,
    check_address,
    check_postgresql,
    refuse_open_passwords,
    shown_place,
    with_scheme,
)


class StoreConfig(BaseModel):
    """The group that may read the store; `merge_core.homes.store_access` sets the modes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: str | int
    """A serving account's group: its name, or its number."""


class StackConfig(BaseModel):
    """What `stack.yaml` may say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefect_database: str | None = Field(default=None, repr=False)
    """`postgresql://user@host:port/name`, as libpq and psql write it."""
    mlflow_database: str | None = Field(default=None, repr=False)
    """Another database, or the same server's; each program makes its tables itself."""
    search_database: str | None = Field(default=None, repr=False)
    """A third one, for searches; without it they are in the home's `search.db`."""
    redis: str | None = Field(default=None, repr=False)
    """`redis://host:port/number`. With it Prefect's API and its services are two processes."""
    workers: int = Field(default=1, ge=1, le=32)
    """Workers that this machine adds to the work pool."""
    store: StoreConfig | None = None
    """Without it, published checkpoints are their owner's alone, like everything else."""
    allowed_hosts: tuple[str, ...] = ()
    """Names, `NAME` or `NAME:PORT`, that the servers answer to besides `localhost` and its numbers:
    those of a proxy that the user has put before them."""

    @field_validator("allowed_hosts")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if read_authority(name) is None:
                raise ValueError(f"write a host as NAME or NAME:PORT, without `*`, not '{name}'")
        return value

    @field_validator("prefect_database", "mlflow_database", "search_database")
    @classmethod
    def _is_postgresql(cls, value: str | None) -> str | None:
        if value:
            check_postgresql(value)
        return value

    @field_validator("redis")
    @classmethod
    def _is_redis(cls, value: str | None) -> str | None:
        if value:
            check_address(value, ("redis", "rediss", "unix"), "redis://host:6379/0")
        return value

    @model_validator(mode="after")
    def _is_whole(self) -> StackConfig:
        if bool(self.prefect_database) != bool(self.mlflow_database):
            raise ValueError("prefect_database and mlflow_database belong together: give both")
        if not self.prefect_database and (self.redis or self.workers > 1):
            raise ValueError(
                "redis and several workers need PostgreSQL, since SQLite admits one writer at a"
                " time: give prefect_database and mlflow_database too"
            )
        if self.search_database and not self.prefect_database:
            raise ValueError(
                "search_database is for searches beside a stack on PostgreSQL: give"
                " prefect_database and mlflow_database too"
            )
        named: dict[str, str] = {}
        for key, address in self.databases.items():
            if address in named:
                raise ValueError(
                    f"{named[address]} and {key} are the same database, and both programs"
                    " call their table of versions alembic_version: give each its own"
                )
            named[address] = key
        return self

    @property
    def databases(self) -> dict[str, str]:
        """The PostgreSQL databases that are named, by the key that names each."""
        keys = ("prefect_database", "mlflow_database", "search_database")
        return {key: address for key in keys if (address := getattr(self, key))}

    @property
    def prefect(self) -> dict[str, str]:
        """Settings for every process of the Prefect server; they hold passwords."""
        if not self.prefect_database:
            return {}
        address = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": _for_asyncpg(self.prefect_database)}
        return address | (_redis_settings(self.redis) if self.redis else {})

    @property
    def mlflow(self) -> str | None:
        """The database as MLflow takes it, with the password; None: SQLite in the home."""
        # Whatever driver a version of SQLAlchemy prefers: MLflow is tested with psycopg2.
        return self.mlflow_database and with_scheme(self.mlflow_database, "postgresql+psycopg2")

    @property
    def shown(self) -> str:
        """Where the records are, for people: without users and passwords."""
        if not (self.prefect_database and self.mlflow_database):
            return "SQLite"
        names = [shown_place(self.prefect_database), shown_place(self.mlflow_database)]
        searches = self.search_database and f", searches in {shown_place(self.search_database)}"
        redis = self.redis and f", Redis {shown_place(self.redis)}"
        return f"PostgreSQL {' and '.join(names)}{searches or ''}{redis or ''}"


def read_stack_config(home: Home) -> StackConfig:
    """The home's `stack.yaml`, with `${NAME}` replaced; without that file, SQLite and one worker.

    Raises:
        MergeflowError: it does not say something meaningful, shows a password to other users, or
            names a variable that is not set.
    """
    path = home.stack_file
    if not path.exists():
        return StackConfig()
    values = load_yaml(path)
    refuse_open_passwords(path, values)
    refuse_variables_of_searches(path, values)
    filled = {
        key: _filled(value, f"{path}: {key}") if isinstance(value, str) else value
        for key, value in values.items()
    }
    return validated(StackConfig, filled, str(path))


def _filled(text: str, where: str) -> str:
    """A text with `${NAME}` replaced by the variable, escaped as addresses need it."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if not found:
            raise MergeflowError(
                f"the variable {match[1]} is not set",
                where=where,
                mend=f"set it before `mergeflow up`, from a file: {match[1]}=$(cat secret-file)",
            )
        return quote(found, safe="")

    return VARIABLE.sub(value, text)


def _for_asyncpg(address: str) -> str:
    """A libpq address as Prefect takes it: asyncpg calls `sslmode` `ssl`."""
    place, _, given = with_scheme(address, "postgresql+asyncpg").partition("?")
    query = [("ssl" if key == "sslmode" else key, value) for key, value in parse_qsl(given)]
    return f"{place}?{urlencode(query)}" if query else place


def _redis_settings(address: str) -> dict[str, str]:
    """What two processes of one Prefect server have to share: events, leases, orders to workers.

    Not Docket: each process runs its own queue, and `/api/admin/settings` would show its address
    with the password to everyone.
    """
    return {
        "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
        "PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_QUEUE_STORAGE": "prefect_redis.cleanup_queue",
        "PREFECT_REDIS_MESSAGING_URL": address,
        "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL": address,
    }
