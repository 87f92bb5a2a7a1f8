"""`stack.yaml`: what it may say, where its passwords may come from, and where they never go."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from prefect.settings.models.root import Settings

from flows.stack.config import StackConfig, read_stack_config
from flows.stack.databases import only_one_on
from flows.stack.prefect_session import prefect_session
from merge_core.errors import MergeflowError, StepError
from merge_core.homes.home import Home
from tasks.registry.client import default_tracking_uri
from tasks.search.postgresql import read_search_database
from tasks.servers.same_process import own_start_time
from tasks.servers.stack_record import StackRecord, find_registry, write_record

DATABASES = """
prefect_database: postgresql://me:${PG_PASSWORD}@db.example:5433/prefect?sslmode=require
mlflow_database: postgresql://me:${PG_PASSWORD}@db.example:5433/mlflow
"""
WHOLE = DATABASES + "redis: redis://:${REDIS_PASSWORD}@cache.example:6380/2\nworkers: 2\n"
PASSWORD = "p@ss/w:rd %41"
ESCAPED = "p%40ss%2Fw%3Ard%20%2541"


@pytest.fixture(autouse=True)
def passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_PASSWORD", PASSWORD)
    monkeypatch.setenv("REDIS_PASSWORD", PASSWORD)


def written(home: Home, text: str, mode: int = 0o644) -> Path:
    home.path.mkdir(parents=True, exist_ok=True)
    home.stack_file.write_text(text)
    home.stack_file.chmod(mode)
    return home.stack_file


def test_without_the_file_it_is_sqlite_and_one_worker(home: Home) -> None:
    config = read_stack_config(home)
    assert (config.shown, config.workers, config.prefect, config.mlflow) == ("SQLite", 1, {}, None)


def test_a_file_that_names_no_database_leaves_the_records_in_the_home(home: Home) -> None:
    assert not home.names_databases
    written(home, "workers: 1\n")
    assert read_stack_config(home).shown == "SQLite"
    assert not home.names_databases
    written(home, DATABASES)
    assert home.names_databases


def test_the_servers_get_the_addresses_with_the_password_escaped(home: Home) -> None:
    written(home, WHOLE)
    config = read_stack_config(home)
    prefect = f"postgresql+asyncpg://me:{ESCAPED}@db.example:5433/prefect?ssl=require"
    assert config.prefect["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == prefect
    assert config.mlflow == f"postgresql+psycopg2://me:{ESCAPED}@db.example:5433/mlflow"
    redis = f"redis://:{ESCAPED}@cache.example:6380/2"
    assert config.prefect["PREFECT_REDIS_MESSAGING_URL"] == redis
    assert config.prefect["PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL"] == redis
    assert config.workers == 2


def test_what_is_shown_and_printed_holds_no_password(home: Home) -> None:
    written(home, WHOLE)
    config = read_stack_config(home)
    assert config.shown == (
        "PostgreSQL db.example:5433/prefect and db.example:5433/mlflow, Redis cache.example:6380/2"
    )
    for text in (config.shown, repr(config), str(config)):
        assert ESCAPED not in text
        assert PASSWORD not in text


SEARCHES = "search_database: postgresql://me@db.example:5433/search?sslmode=require\n"


def test_searches_have_a_database_of_their_own_that_needs_no_variable(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_search_database(home) is None
    written(home, WHOLE)
    assert read_search_database(home) is None
    written(home, WHOLE + SEARCHES)
    shown = read_stack_config(home).shown
    assert "/prefect and db.example:5433/mlflow, searches in db.example:5433/search, Re" in shown
    monkeypatch.delenv("PG_PASSWORD")  # as in a worker
    address = "postgresql+psycopg2://me@db.example:5433/search?sslmode=require"
    assert read_search_database(home) == address
    file = written(home, WHOLE + SEARCHES.replace("me@", "me:hunter2@"))
    with pytest.raises(MergeflowError, match="search_database holds a password") as told:
        read_search_database(home)
    assert "hunter2" not in str(told.value)
    file.chmod(0o600)
    assert read_search_database(home) == address.replace("me@", "me:hunter2@")


def test_a_variable_for_the_database_of_searches_is_refused_with_what_to_do(home: Home) -> None:
    written(home, WHOLE + SEARCHES.replace("me@", "me:${PG_PASSWORD}@"))
    for read in (read_search_database, read_stack_config):
        with pytest.raises(MergeflowError, match="workers search, too") as told:
            read(home)
        assert "~/.pgpass" in str(told.value)


def test_a_socket_is_an_address_too(home: Home) -> None:
    sockets = "?host=/run/postgresql&port=5433"
    config = StackConfig(
        prefect_database=f"postgresql:///prefect{sockets}",
        mlflow_database=f"postgresql:///mlflow{sockets}",
    )
    assert config.shown.startswith("PostgreSQL /run/postgresql:5433/prefect and ")
    address = config.prefect["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    assert address == "postgresql+asyncpg:///prefect?host=%2Frun%2Fpostgresql&port=5433"


def test_the_settings_are_ones_that_prefect_has(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(home, WHOLE)
    for name, value in read_stack_config(home).prefect.items():
        monkeypatch.setenv(name, value)
    server = Settings().server
    assert server.database.connection_url is not None
    assert "db.example" in server.database.connection_url.get_secret_value()
    assert server.events.messaging_broker == "prefect_redis.messaging"
    assert server.events.messaging_cache == "prefect_redis.messaging"
    assert server.events.causal_ordering == "prefect_redis.ordering"
    assert server.concurrency.lease_storage == "prefect_redis.lease_storage"
    assert server.worker_channel.cleanup_queue_storage == "prefect_redis.cleanup_queue"
    assert ESCAPED not in Settings().model_dump_json()


REFUSED = {
    "redis: redis://localhost/0\n": "redis and several workers need PostgreSQL",
    "workers: 2\n": "redis and several workers need PostgreSQL",
    "prefect_database: postgresql://h/a\n": "belong together: give both",
    "prefect_database: mysql://h/a\nmlflow_database: postgresql://h/b\n": "write it as postgresql://host",
    "prefect_database: postgresql://h/a\nmlflow_database: postgresql://h/a\n": "the same database",
    "search_database: postgresql://h/a\n": "search_database is for searches beside a stack",
    DATABASES + "search_database: sqlite:///a\n": "write it as postgresql://host",
    "prefect_database: postgresql://h/a\nmlflow_database: postgresql://h/b\n"
    "search_database: postgresql://h/b\n": "mlflow_database and search_database are the same",
    DATABASES + "redis: localhost:6379\n": "redis://host:6379/0",
    DATABASES.replace("sslmode=require", "options=x"): "the option options",
    DATABASES + "workers: 0\n": "workers: this must be at least 1, not 0",
    DATABASES + "worker: 2\n": "did you mean 'workers'",
    DATABASES.replace("PG_PASSWORD", "UNHEARD_OF"): "the variable UNHEARD_OF is not set",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_makes_no_sense_is_refused_with_the_file_and_no_password(
    text: str, home: Home
) -> None:
    file = written(home, text)
    with pytest.raises(MergeflowError, match=REFUSED[text]) as caught:
        read_stack_config(home)
    assert str(file) in str(caught.value)
    assert ESCAPED not in str(caught.value)


@pytest.mark.parametrize(
    "literal",
    [
        DATABASES.replace("${PG_PASSWORD}", "hunter2"),
        DATABASES.replace("?sslmode=require", "?password=hunter2"),
        DATABASES + "redis: redis://:hunter2@localhost/0\n",
    ],
)
def test_a_password_in_a_file_that_others_can_read_is_refused(literal: str, home: Home) -> None:
    written(home, literal)
    with pytest.raises(MergeflowError, match="chmod 600") as caught:
        read_stack_config(home)
    assert "hunter2" not in str(caught.value)
    written(home, literal, 0o600)
    assert read_stack_config(home).shown.startswith("PostgreSQL")


@pytest.mark.parametrize("password", ["pa/ss", "50%off", "p@s/w", "a#b"])
def test_a_password_with_signs_that_end_it_too_early_is_refused_and_not_repeated(
    password: str, home: Home
) -> None:
    text = DATABASES.replace("${PG_PASSWORD}", password)
    for mode, message in ((0o644, "chmod 600"), (0o600, "is escaped for you")):
        written(home, text, mode)
        with pytest.raises(MergeflowError, match=message) as caught:
            read_stack_config(home)
        assert password not in str(caught.value)


@pytest.mark.skipif(find_spec("psycopg2") is not None, reason="the extra scale-out is installed")
def test_packages_that_are_missing_are_named_with_the_extra(home: Home) -> None:
    written(home, DATABASES)
    with pytest.raises(MergeflowError, match=r"psycopg2.*\n.*\[scale-out\]"):
        held(read_stack_config(home))


@pytest.mark.skipif(find_spec("psycopg2") is None, reason="the extra scale-out is not installed")
def test_a_server_that_is_away_is_named_without_the_password(home: Home) -> None:
    written(home, DATABASES.replace("db.example:5433", "127.0.0.1:9"))
    with pytest.raises(StepError, match=r"127\.0\.0\.1:9/prefect: PostgreSQL says") as caught:
        held(read_stack_config(home))
    assert ESCAPED not in str(caught.value)
    assert PASSWORD not in str(caught.value)


def held(config: StackConfig) -> None:
    with only_one_on(config):
        pass


def test_while_the_stack_is_down_nothing_is_written_into_embedded_databases_instead(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)  # other tests' server
    written(home, WHOLE)
    with pytest.raises(MergeflowError, match="start `mergeflow up`"):
        default_tracking_uri(home)
    with pytest.raises(MergeflowError, match="start `mergeflow up`"), prefect_session(home):
        pass
    assert not list(home.path.rglob("*.db"))


def test_while_it_is_up_every_command_uses_its_mlflow(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # what is set below ends with the test
    record = StackRecord("x", os.getpid(), own_start_time(), "http://h:1", "http://h:2", "/")
    write_record(home, record)
    find_registry(home)
    assert default_tracking_uri(home).startswith("sqlite:")
    written(home, WHOLE)
    find_registry(home)
    assert default_tracking_uri(home) == "http://h:2"
