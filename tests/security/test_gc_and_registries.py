"""`mergeflow gc` asks every registry that a home has used, and goes by none that is silent."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from flows.cli import program
from merge_core.homes.home import Home
from tasks.registry.past_averages import RegisteredAt
from tests.support.gc_store import gc, link_to, used, version_from
from tests.support.merge_store import DAY, PIPELINE, Store, clear_away, made_old

pytest_plugins = ["tests.support.gc_fixtures"]


def test_a_version_in_a_registry_that_was_used_once_keeps_what_it_leads_to(
    store: Store, their_registry: str
) -> None:
    served, useless = store.merged(1), store.merged(2)
    store.registry = their_registry
    store.register_with_evidence(served)
    assert gc() == 0
    assert store.objects() == {served.object_id}, "the second registry was asked"
    assert useless.object_id not in store.objects()
    assert gc("--no-registry") == 0
    assert store.objects() == {served.object_id}, "and it cannot be left out without a word"


def test_a_registry_that_is_named_once_and_needs_something_is_asked_from_then_on(
    store: Store, their_registry: str
) -> None:
    served = store.merged(1)
    version_from(their_registry, served.path)
    assert gc("--tracking-uri", their_registry) == 0
    assert gc() == 0
    assert store.objects() == {served.object_id}


def test_the_environment_names_one_registry_and_the_home_s_own_is_asked_too(
    store: Store, their_registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = store.merged(1), store.merged(2)
    version_from(store.registry, here.path)
    version_from(their_registry, there.path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", their_registry)
    assert gc() == 0
    assert store.objects() == {here.object_id, there.object_id}


def test_nothing_goes_while_the_database_of_a_registry_is_gone(
    store: Store, their_registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served, useless = store.merged(1), store.merged(2)
    used(store, their_registry, served)
    (tmp_path / "else where").rename(tmp_path / "moved")
    assert gc() == 1
    said = capsys.readouterr().err
    assert "no MLflow database" in said
    assert store.objects() == {served.object_id, useless.object_id}
    (tmp_path / "moved").rename(tmp_path / "else where")
    assert gc() == 0
    assert store.objects() == {served.object_id}


def test_a_registry_that_is_gone_for_good_can_be_forgotten_by_the_command_that_is_shown(
    store: Store, their_registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shlex

    served = store.merged(1)
    used(store, their_registry, served)
    shutil.rmtree(tmp_path / "else where")
    assert gc() == 1
    shown = " ".join(capsys.readouterr().err.split())
    command = shown[shown.index("`mergeflow gc --forget") + 1 :].partition("`")[0]
    assert program.run(shlex.split(command)[1:]) == 0
    assert gc() == 0
    assert store.objects() == set()


@pytest.mark.parametrize("what", ["emptied", "its own", "damaged"])
def test_nothing_goes_when_a_registry_is_no_more_what_it_was(
    store: Store,
    their_registry: str,
    what: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    served = store.merged(1)
    registry = store.registry if what == "its own" else their_registry
    used(store, registry, served)
    database = Path(registry.removeprefix("sqlite:///"))
    if what == "damaged":
        database.write_bytes(b"SQLite format 3\x00" + os.urandom(4096))
    else:
        with contextlib.closing(sqlite3.connect(database)) as other, other:
            tables = ("model_version_tags", "model_versions", "registered_models", "experiments")
            for table in tables:
                other.execute(f"DELETE FROM {table}")
    assert gc() == 1
    assert "forget-registry" in capsys.readouterr().err
    assert store.objects() == {served.object_id}


class _Answering(http.server.BaseHTTPRequestHandler):
    """A server that says the same to everybody; it notes who asked with which password."""

    status: ClassVar[int]
    answer: ClassVar[bytes]
    asked: ClassVar[list[str | None]]

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("Authorization"))
        is_health = self.path.startswith("/health")
        self.send_response(200 if is_health else self.status)
        self.end_headers()
        self.wfile.write(b"OK" if is_health else self.answer)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def _answering(status: int, answer: bytes) -> Iterator[str]:
    """The address of a server that gives one answer to everything but its health."""
    _Answering.status, _Answering.answer, _Answering.asked = status, answer, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_nothing_goes_while_a_server_refuses_and_no_password_goes_to_a_stranger(
    store: Store, their_registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = store.merged(1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", their_registry)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    with _answering(401, b'{"error_code": "PERMISSION_DENIED"}') as address:
        place = RegisteredAt(tracking_uri=address, model="m", version="1")
        store.record(served, 10, place)
        assert gc() == 1
    assert store.objects() == {served.object_id}
    assert len(_Answering.asked) > 1
    assert set(_Answering.asked) == {None}
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "secret"


def test_nothing_goes_while_nobody_answers(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    served = store.merged(1)
    gone = "http://127.0.0.1:9"
    store.record(served, 10, RegisteredAt(tracking_uri=gone, model="m", version="1"))
    assert gc("--no-registry") == 1
    assert f"--forget-registry {gone}" in " ".join(capsys.readouterr().err.split())
    assert store.objects() == {served.object_id}
    assert program.run(["gc", "--forget-registry", f"{gone}/"]) == 0
    assert gc() == 0


def test_a_version_whose_files_cannot_be_read_stops_everything_until_a_person_vouches_for_it(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = store.merged(1)
    version_from(store.registry, "s3://bucket/that/nobody/can/read")
    assert gc() == 1
    assert "gc --foreign models:/served/1" in " ".join(capsys.readouterr().err.split())
    assert store.objects() == {unknown.object_id}
    assert gc("--foreign", "models:/served/1") == 0
    assert store.objects() == set()


def test_an_address_is_noted_privately_and_without_its_password(
    store: Store, their_registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.registry = their_registry
    before = os.umask(0)
    try:
        store.register_with_evidence(store.merged(1))
    finally:
        os.umask(before)
    note = store.home.path / "registries.json"
    assert note.stat().st_mode & 0o777 == 0o600
    from tasks.registry.memory import known_registries, note_registry

    note_registry(store.home, "postgresql://me:secret@db/mlflow?password=other")
    assert "secret" not in note.read_text()
    assert "other" not in note.read_text()
    assert [each.address for each in known_registries(store.home)] == [
        their_registry,
        "postgresql://db/mlflow",
        "embedded",
    ]


def test_many_runs_note_their_registries_at_once_and_none_is_lost(store: Store) -> None:
    from tasks.registry.memory import known_registries, note_registry

    addresses = [f"http://server-{number}:5000" for number in range(24)]
    threads = [
        threading.Thread(target=note_registry, args=(store.home, address)) for address in addresses
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {each.address for each in known_registries(store.home)} == {*addresses, "embedded"}


def test_a_damaged_note_of_registries_stops_everything(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    served = store.merged(1)
    (store.home.path / "registries.json").write_text('{"registries": [{"address"')
    assert gc() == 2
    assert "registries.json" in capsys.readouterr().err
    assert store.objects() == {served.object_id}


def test_a_home_that_was_moved_or_is_reached_by_a_link_keeps_what_was_registered_before(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_us, by_them, useless = store.merged(1), store.merged(2), store.merged(3)
    used(store, store.registry, by_us)
    version_from(store.registry, by_them.path)
    moved = tmp_path / "moved" / "home"
    moved.parent.mkdir()
    store.home.path.rename(moved)
    monkeypatch.setenv("MERGEFLOW_HOME", str(link_to(tmp_path / "link", moved)))
    assert gc() == 0
    left = {path.name for path in (moved / "store" / "objects").iterdir()}
    assert left == {by_us.object_id, by_them.object_id}
    assert useless.object_id not in left
    clear_away(Home(moved))


def test_an_average_that_was_registered_at_a_server_of_this_home_is_found_in_its_database(
    store: Store,
) -> None:
    merged = store.merged(1)
    number = used(store, store.registry, merged)
    place = RegisteredAt(tracking_uri="http://127.0.0.1:9", model="model", version=number)
    store.record(merged, 10, place)
    assert gc() == 0, "the server of a `mergeflow up` that has ended need not be started for this"
    assert store.objects() == {merged.object_id}


def test_a_home_from_before_registries_were_noted_says_so_once(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.register(store.merged(1))
    said = []
    for _ in range(2):
        assert program.run(["gc"]) == 0
        said.append("register.tracking_uri" in capsys.readouterr().err)
    assert said == [True, False]


def test_a_run_of_averages_asks_every_registry_as_well(store: Store, their_registry: str) -> None:
    from tasks.store.retention import retain

    shared, newer = store.merged(1), store.merged(2)
    own = store.registry
    used(store, their_registry, shared)
    store.register(shared)
    store.register(newer)
    assert retain(store.home, own, name=PIPELINE, model="model", keep=1) == []
    assert store.objects() == {shared.object_id, newer.object_id}
    Path(their_registry.removeprefix("sqlite:///")).unlink()
    store.register(store.merged(3))
    assert retain(store.home, own, name=PIPELINE, model="model", keep=1) == []
    assert newer.object_id in store.objects(), "it stays while not all is known"


def test_what_a_run_has_found_in_the_store_counts_as_new(store: Store) -> None:
    from merge_core.store.quarantine import count_as_new

    found = store.merged(1, age=9 * DAY)
    count_as_new(store.home, Path(found.path))
    assert program.run(["gc", "--yes"]) == 0
    assert store.objects() == {found.object_id}
    made_old(Path(found.path), 9 * DAY)
    assert program.run(["gc", "--yes"]) == 0
    assert store.objects() == set()


@pytest.mark.parametrize("answer", [b"{}", b"<html>welcome</html>", b'{"model_versions": 7}'])
def test_something_else_at_the_address_of_a_registry_stops_everything(
    store: Store, capsys: pytest.CaptureFixture[str], answer: bytes
) -> None:
    from tasks.registry.memory import KnownRegistry

    merged = store.merged(1)
    with _answering(200, answer) as address:
        noted = KnownRegistry(address=address, experiment="1", created=7, noted="then")
        values = {"registries": [noted.model_dump()]}
        (store.home.path / "registries.json").write_text(json.dumps(values))
        assert gc() == 1
    assert "forget-registry" in capsys.readouterr().err
    assert store.objects() == {merged.object_id}
