"""Two homes on one PostgreSQL: their moves of an alias take turns by its advisory lock."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
from sqlalchemy.exc import OperationalError

from tasks.registry.client import RegistryUnreachableError
from tasks.registry.database_lock import database_lock
from tests.support.database_servers import PASSWORD, Servers

pytestmark = pytest.mark.slow


def test_moves_of_one_model_take_turns_and_of_another_do_not_wait(servers: Servers) -> None:
    address = servers.create_database("registry")
    held, free, turns = threading.Event(), threading.Event(), []

    def first() -> None:
        with database_lock(address, "zoo"):
            held.set()
            free.wait(30)
            turns.append("first")

    other = threading.Thread(target=first)
    other.start()
    assert held.wait(30)
    with database_lock(address, "another", wait=0.0):
        pass
    with (
        pytest.raises(RegistryUnreachableError, match="moving the alias of zoo") as told,
        database_lock(address, "zoo", wait=0.3),
    ):
        raise AssertionError("two at once")
    assert PASSWORD not in str(told.value)
    assert "p%40ss" not in str(told.value)
    free.set()
    with database_lock(address, "zoo", wait=30.0):
        turns.append("second")
    other.join()
    assert turns == ["first", "second"]


def test_whoever_dies_holds_it_no_more(servers: Servers) -> None:
    address = servers.create_database("registry-of-the-dead")
    lock = database_lock(address, "zoo")
    lock.__enter__()
    servers.query(
        "registry-of-the-dead",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    started = time.monotonic()
    with database_lock(address, "zoo", wait=30.0):
        assert time.monotonic() - started < 30
    with contextlib.suppress(OperationalError):  # its connection is gone
        lock.__exit__(None, None, None)


def test_an_address_of_no_postgresql_needs_no_lock() -> None:
    with database_lock("sqlite:////nowhere/mlflow.db", "zoo"):
        pass
    with database_lock("http://127.0.0.1:9", "zoo"):
        pass
