"""Where `mergeflow up` keeps its records, and how many workers it starts: `stack.yaml` in the home.

Without databases named there: SQLite under the home, one worker. With them: PostgreSQL, and Redis
between the processes of Prefect. Passwords come from the environment, from `~/.pgpass`, or from the
file if nobody else can read it; they reach the servers in their environment alone.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from flows.servers.request_origin import read_authority
from merge_core.errors import MergeflowError
from merge_core.files.strict_yaml import load_yaml, validated
from merge_core.homes.home import Home

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_NOT_ESCAPED = re.compile(r"%(?![0-9A-Fa-f]{2})")
_OPTIONS = {"sslmode", "host", "port", "user", "password"}
"""Of a database's address, after the question mark: those that psycopg2 and asyncpg both take."""


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

    @field_validator("prefect_database", "mlflow_database")
    @classmethod
    def _is_postgresql(cls, value: str | None) -> str | None:
        if value:
            _check_address(value, ("postgresql", "postgres"), "postgresql://host:5432/name")
            strange = {key for key, _ in parse_qsl(urlsplit(value).query)} - _OPTIONS
            if strange:
                raise ValueError(
                    f"the option {min(strange)} is not one of both programs' drivers; they know"
                    f" {', '.join(sorted(_OPTIONS))}"
                )
        return value

    @field_validator("redis")
    @classmethod
    def _is_redis(cls, value: str | None) -> str | None:
        if value:
            _check_address(value, ("redis", "rediss", "unix"), "redis://host:6379/0")
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
        if self.prefect_database and self.prefect_database == self.mlflow_database:
            raise ValueError(
                "prefect_database and mlflow_database are the same database, and both programs"
                " call their table of versions alembic_version: give each its own"
            )
        return self

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
        return self.mlflow_database and _with_scheme(self.mlflow_database, "postgresql+psycopg2")

    @property
    def shown(self) -> str:
        """Where the records are, for people: without users and passwords."""
        if not (self.prefect_database and self.mlflow_database):
            return "SQLite"
        names = [shown_place(self.prefect_database), shown_place(self.mlflow_database)]
        return f"PostgreSQL {' and '.join(names)}" + (
            f", Redis {shown_place(self.redis)}" if self.redis else ""
        )


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
    _refuse_open_passwords(path, values)
    filled = {
        key: _filled(value, f"{path}: {key}") if isinstance(value, str) else value
        for key, value in values.items()
    }
    return validated(StackConfig, filled, str(path))


def _refuse_open_passwords(path: Path, values: dict[str, Any]) -> None:
    """Like ssh and libpq: a file that others can read must not hold a password."""
    open_to_others = stat.S_IMODE(path.stat().st_mode) & 0o077
    for key, value in values.items():
        passwords = _passwords(value) if isinstance(value, str) else []
        if open_to_others and not all(map(_VARIABLE.fullmatch, passwords)):
            raise MergeflowError(
                f"{key} holds a password, and other users of this machine can read the file",
                where=str(path),
                mend=f"chmod 600 {path}, or write ${{NAME}} and set the variable NAME",
            )


def _check_address(address: str, schemes: tuple[str, ...], pattern: str) -> None:
    """Refuse an address that programs would read differently, without repeating any of it.

    Raises:
        ValueError: another scheme, or signs in a password that would have to be escaped.
    """
    filled = _VARIABLE.sub("x", address)
    if urlsplit(filled).scheme not in schemes:
        raise ValueError(f"write it as {pattern}")
    if _is_torn(filled):
        raise ValueError(
            f"write it as {pattern}, and signs in a user or password that mean something else there"
            " (/ @ : % ? #) as %2F and so on; or write ${NAME}, which is escaped for you"
        )


def _is_torn(address: str) -> bool:
    """Whether a sign that was not escaped ends the user, the password or the host too early."""
    parts = urlsplit(address)
    try:
        parts.port  # noqa: B018 - raises for a text that is no number
    except ValueError:
        return True
    rest = f"{parts.path}?{parts.query}#{parts.fragment}"
    return "@" in rest or bool(parts.fragment) or bool(_NOT_ESCAPED.search(address))


def _passwords(address: str) -> list[str]:
    """The part of an address that may be a password; the whole address where that is unclear."""
    if _is_torn(_VARIABLE.sub("x", address)):
        return [address]
    parts = urlsplit(address)
    given = [value for key, value in parse_qsl(parts.query) if key == "password"]
    return [parts.password, *given] if parts.password else given


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

    return _VARIABLE.sub(value, text)


def _for_asyncpg(address: str) -> str:
    """A libpq address as Prefect takes it: asyncpg calls `sslmode` `ssl`."""
    place, _, given = _with_scheme(address, "postgresql+asyncpg").partition("?")
    query = [("ssl" if key == "sslmode" else key, value) for key, value in parse_qsl(given)]
    return f"{place}?{urlencode(query)}" if query else place


def _with_scheme(address: str, scheme: str) -> str:
    return f"{scheme}://{address.partition('://')[2]}"


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


def shown_place(address: str) -> str:
    """`host:port/name` of a database's address, without user and password."""
    parts = urlsplit(address)
    query = dict(parse_qsl(parts.query))
    host = parts.hostname or query.get("host", "")
    port = parts.port or query.get("port")
    return f"{host}{f':{port}' if port else ''}{unquote(parts.path)}"
