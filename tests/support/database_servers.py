"""A PostgreSQL and a Redis of the test's own: private directories, free ports of localhost, gone
afterwards. The programs are those of the distribution's packages."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

PASSWORD = "p@ss/w:rd %41#?"
"""With every character that an address, a shell or an ini file could trip over."""
_START_SECONDS = 30


@dataclass(frozen=True)
class Servers:
    """Where they listen."""

    postgresql_port: int
    redis_port: int

    def database(self, name: str, password: str = quote(PASSWORD, safe="")) -> str:
        """Address of a database that `create_database` made."""
        host = f"127.0.0.1:{self.postgresql_port}"
        return f"postgresql://mergeflow:{password}@{host}/{name}?sslmode=disable"

    def redis(self, number: int = 0, password: str = quote(PASSWORD, safe="")) -> str:
        """Address of one of Redis's numbered databases."""
        return f"redis://:{password}@127.0.0.1:{self.redis_port}/{number}"

    def create_database(self, name: str) -> str:
        """A new database that belongs to the user mergeflow, who is no superuser; its address."""
        self._as_superuser(f'CREATE DATABASE "{name}" OWNER mergeflow')
        return self.database(name)

    def query(self, name: str, statement: str) -> list[tuple[Any, ...]]:
        """Rows that a database answers with."""
        import psycopg2

        connected = contextlib.closing(psycopg2.connect(self.database(name)))
        with connected as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def _as_superuser(self, statement: str) -> None:
        import psycopg2

        address = self.database("postgres").replace("//mergeflow:", "//postgres:")
        with contextlib.closing(psycopg2.connect(address)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, [PASSWORD] if "%s" in statement else None)


def missing_postgresql() -> str | None:
    """Why PostgreSQL cannot be had here, or None."""
    if _initdb() is None:
        return "no initdb in /usr/lib/postgresql/*/bin: apt-get install postgresql"
    return None


def missing_programs() -> str | None:
    """Why the servers cannot be had here, or None."""
    if missing := missing_postgresql():
        return missing
    if shutil.which("redis-server") is None:
        return "no redis-server: apt-get install redis-server"
    return None


@contextlib.contextmanager
def database_servers(postgresql_port: int, redis_port: int) -> Iterator[Servers]:
    """Both servers, for the block."""
    servers = Servers(postgresql_port, redis_port)
    with _place() as directory, _redis(directory, redis_port), _with_role(directory, servers):
        yield servers


@contextlib.contextmanager
def postgresql_server(port: int) -> Iterator[Servers]:
    """PostgreSQL alone, for the block."""
    servers = Servers(port, 0)
    with _place() as directory, _with_role(directory, servers):
        yield servers


@contextlib.contextmanager
def _place() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="mergeflow-servers-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextlib.contextmanager
def _with_role(directory: Path, servers: Servers) -> Iterator[None]:
    with _postgresql(directory, servers.postgresql_port):
        servers._as_superuser("CREATE ROLE mergeflow LOGIN PASSWORD %s")
        yield


def _initdb() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1] if found else None


@contextlib.contextmanager
def _postgresql(directory: Path, port: int) -> Iterator[None]:
    """PostgreSQL refuses to run as root: then it is the user postgres of Debian's package."""
    initdb = _initdb()
    assert initdb is not None
    place = directory / "postgresql"
    place.mkdir()
    as_user: dict[str, Any] = {"cwd": place}
    if os.geteuid() == 0:
        shutil.chown(place, "postgres", "postgres")
        as_user |= {"user": "postgres", "group": "postgres", "extra_groups": []}
    (place / "password").write_text(PASSWORD + "\n")
    made = ["--auth=scram-sha-256", f"--pwfile={place / 'password'}", "--username=postgres"]
    subprocess.run(
        [initdb, "--pgdata", place / "data", *made, "--encoding=UTF8", "--no-sync"],
        check=True,
        capture_output=True,
        **as_user,
    )
    options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "on"}
    settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    with (directory / "postgresql.log").open("wb") as log:
        process = subprocess.Popen(
            [initdb.with_name("postgres"), "-D", place / "data", "-p", str(port), *settings],
            stdout=log,
            stderr=log,
            start_new_session=True,
            **as_user,
        )
    with _stopped_after(process, signal.SIGINT):
        ready = [initdb.with_name("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        _wait(process, lambda: subprocess.run(ready, check=False).returncode == 0)
        yield


@contextlib.contextmanager
def _redis(directory: Path, port: int) -> Iterator[None]:
    import redis

    configuration = [
        f"port {port}",
        "bind 127.0.0.1",
        f'requirepass "{PASSWORD}"',
        f"dir {directory}",
        'save ""',
    ]
    with (directory / "redis.log").open("wb") as log:
        process = subprocess.Popen(
            ["redis-server", "-"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    assert process.stdin is not None
    process.stdin.write("\n".join(configuration).encode())
    process.stdin.close()

    def answers() -> bool:
        with contextlib.suppress(redis.ConnectionError):
            return bool(client.ping())
        return False

    with _stopped_after(process, signal.SIGTERM):
        with redis.Redis(port=port, password=PASSWORD) as client:
            _wait(process, answers)
        yield


def _wait(process: subprocess.Popen[bytes], answers: Any) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not answers():
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        assert time.monotonic() < deadline, f"{process.args} does not answer"
        time.sleep(0.1)


@contextlib.contextmanager
def _stopped_after(process: subprocess.Popen[bytes], number: signal.Signals) -> Iterator[None]:
    try:
        yield
    finally:
        process.send_signal(number)
        process.wait(30)
