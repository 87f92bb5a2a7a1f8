"""Real servers, and a stack of two workers on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.model_zoo import Zoo
from tests.support.database_servers import (
    PASSWORD,
    Servers,
    database_servers,
    missing_postgresql,
    missing_programs,
    postgresql_server,
)
from tests.support.stack import RunningStack, free_port, lay_out


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """PostgreSQL and Redis."""
    missing = missing_programs()
    if missing:
        pytest.skip(missing)
    for package in ("psycopg2", "prefect_redis"):
        pytest.importorskip(package, reason="pip install -e '.[scale-out]'")
    with database_servers(free_port(), free_port()) as running:
        running.create_database("prefect")
        running.create_database("mlflow")
        yield running


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Servers]:
    """PostgreSQL alone."""
    missing = missing_postgresql()
    if missing:
        pytest.skip(missing)
    pytest.importorskip("psycopg2", reason="pip install -e '.[scale-out]'")
    with postgresql_server(free_port()) as running:
        yield running


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, servers: Servers, tiny_zoo: Zoo
) -> Iterator[RunningStack]:
    """`mergeflow up` with two workers, ready; nothing of it is left after the tests."""
    directory = tmp_path_factory.mktemp("stack")
    lay_out(directory, tiny_zoo)
    stack = RunningStack(home=directory / "home", directory=directory)
    stack.variables["SECRET"] = PASSWORD
    write_stack_file(stack.home, servers)
    try:
        yield stack.up()
    finally:
        if stack.process is not None and stack.process.poll() is None:
            stack.interrupt()
        for process in stack.processes():
            process.kill()


def write_stack_file(
    home: Path,
    servers: Servers,
    *,
    redis: bool = True,
    databases: tuple[str, str] = ("prefect", "mlflow"),
) -> None:
    """Name the servers in a home's `stack.yaml`; the password comes from the environment."""
    lines = [
        f"prefect_database: {servers.database(databases[0], '${SECRET}')}",
        f"mlflow_database: {servers.database(databases[1], '${SECRET}')}",
        *([f"redis: {servers.redis(0, '${SECRET}')}", "workers: 2"] if redis else []),
    ]
    home.mkdir(exist_ok=True)
    (home / "stack.yaml").write_text("\n".join(lines))
