"""`mergeflow gc` removes nothing that any registry serves, however that registry leads to it."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from flows.cli import program
from merge_core.homes.home import Home
from merge_core.records import CheckpointManifest
from tasks.registry.client import (
    Registry,
    ensure_experiment,
    open_registry,
    process_tracking_uri,
)
from tasks.registry.past_averages import RegisteredAt
from tests.support.merge_store import DAY, PIPELINE, Store, clear_away, made_old, merge_store
from tests.support.registrations import empty_registry, unsynced_sqlite


@pytest.fixture(scope="module", autouse=True)
def _quick_database() -> Iterator[None]:
    with unsynced_sqlite():
        yield


@pytest.fixture
def registry_at(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Makes an empty MLflow database in a directory; its address."""
    template = tmp_path_factory.getbasetemp() / "template.db"
    return lambda directory: empty_registry(directory, template)


@pytest.fixture
def store(
    tmp_path: Path,
    home: Home,
    registry_at: Callable[[Path], str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Store]:
    """A store whose merges are registered in the home's own database."""
    registry = registry_at(home.mlflow)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield merge_store(tmp_path, home, registry)
    clear_away(home)


@pytest.fixture
def elsewhere(tmp_path: Path, registry_at: Callable[[Path], str]) -> str:
    """The address of somebody else's registry."""
    return registry_at(tmp_path / "else where")


def gc(*arguments: str) -> int:
    """Remove whatever can go, however young."""
    return program.run(["gc", "--yes", "--keep", "0", "--older-than", "0m", *arguments])


def version_from(
    registry: str, source: str, *, tags: dict[str, str] | None = None, run_id: str | None = None
) -> None:
    """A version as a person makes it in MLflow: with a source, and no tag of ours."""
    with open_registry(registry, writing=True) as opened, process_tracking_uri(opened):
        opened.client.create_registered_model("served")
        opened.client.create_model_version("served", source, run_id=run_id, tags=tags or {})


def their_experiment(opened: Registry) -> str:
    """The id of an experiment of somebody else's, with its artifacts beside the database."""
    found = opened.client.get_experiment_by_name("theirs")
    if found is not None:
        return str(found.experiment_id)
    database = Path(opened.tracking_uri.removeprefix("sqlite:///"))
    return str(opened.client.create_experiment("theirs", (database.parent / "theirs").as_uri()))


def logged_model(registry: str, *, tags: dict[str, str], files: Path | None = None) -> str:
    """A model in MLflow; its id."""
    with open_registry(registry, writing=True) as opened:
        client = opened.client
        experiment = their_experiment(opened)
        model = client.create_logged_model(experiment, name="model", tags=tags)
        if files is not None:
            client.log_model_artifacts(model.model_id, str(files))
        client.finalize_logged_model(model.model_id, "READY")
        return str(model.model_id)


def used(store: Store, registry: str, merged: CheckpointManifest) -> str:
    """Register a merge as a run does, but for its evidence; the version."""
    from tasks.registry.memory import note_store_of

    with open_registry(registry, writing=True) as opened:
        note_store_of(merged.path, registry, opened, ensure_experiment(opened, "merges"))
    return replace(store, registry=registry).register(merged)


def file_with(directory: Path, name: str, text: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(text)
    return directory


def link_to(place: Path, target: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)
    return place


def by_plain_path(store: Store, merged: CheckpointManifest, _tmp: Path) -> None:
    version_from(store.registry, merged.path)


def by_file_address(store: Store, merged: CheckpointManifest, _tmp: Path) -> None:
    version_from(store.registry, Path(merged.path).as_uri())


def by_a_file_in_it(store: Store, merged: CheckpointManifest, _tmp: Path) -> None:
    version_from(store.registry, f"{merged.path}/model.safetensors")


def by_a_link_to_it(store: Store, merged: CheckpointManifest, tmp: Path) -> None:
    version_from(store.registry, str(link_to(tmp / "serving" / "now", Path(merged.path))))


def by_a_link_of_links(store: Store, merged: CheckpointManifest, tmp: Path) -> None:
    store_link = link_to(tmp / "mnt" / "store", store.home.path / "store")
    version_from(
        store.registry, str(link_to(tmp / "now", store_link / "objects" / merged.object_id))
    )


def by_a_directory_with_a_link(store: Store, merged: CheckpointManifest, tmp: Path) -> None:
    link_to(tmp / "serving" / "model.safetensors", Path(merged.path, "model.safetensors"))
    version_from(store.registry, str(tmp / "serving"))


def by_a_path_on_another_mount(store: Store, merged: CheckpointManifest, _tmp: Path) -> None:
    version_from(store.registry, f"/mnt/before the move/store/objects/{merged.object_id}")


def by_model_id(store: Store, merged: CheckpointManifest, _tmp: Path) -> None:
    model = logged_model(store.registry, tags={"mergeflow.path": merged.path})
    version_from(store.registry, f"models:/{model}")


def by_digest_alone(store: Store, merged: CheckpointManifest, _tmp: Path) -> None:
    model = logged_model(store.registry, tags={"mergeflow.digest": merged.digest})
    version_from(store.registry, f"models:/{model}")


def by_a_retired_model(store: Store, merged: CheckpointManifest, _tmp: Path) -> None:
    tags = {"mergeflow.digest": merged.digest, "mergeflow.retired": "model/1"}
    version_from(store.registry, f"models:/{logged_model(store.registry, tags=tags)}")


def by_the_files_of_a_model(store: Store, merged: CheckpointManifest, tmp: Path) -> None:
    said = f"flavors:\n  transformers:\n    source_model_name: {merged.path}\n"
    model = logged_model(store.registry, tags={}, files=file_with(tmp / "f", "MLmodel", said))
    version_from(store.registry, f"models:/{model}")


def by_a_link_in_the_files_of_a_model(store: Store, merged: CheckpointManifest, tmp: Path) -> None:
    place = link_to(tmp / "a serving" / "now here", Path(merged.path))
    said = json.dumps({"path": str(place), "files": []})
    model = logged_model(store.registry, tags={}, files=file_with(tmp / "f", "data.json", said))
    version_from(store.registry, f"models:/{model}")


def by_the_files_of_a_deleted_model(store: Store, merged: CheckpointManifest, tmp: Path) -> None:
    said = f"local_base_model_path: {merged.path}\n"
    model = logged_model(store.registry, tags={}, files=file_with(tmp / "f", "MLmodel", said))
    version_from(store.registry, f"models:/{model}")
    with open_registry(store.registry, writing=True) as opened:
        opened.client.delete_logged_model(model)


def by_the_files_of_a_run(store: Store, merged: CheckpointManifest, tmp: Path) -> None:
    file_with(tmp / "f", "pointer.bin", f"\x00\x01{merged.path}\x00")
    with open_registry(store.registry, writing=True) as opened, process_tracking_uri(opened):
        client = opened.client
        run = client.create_run(their_experiment(opened))
        client.log_artifacts(run.info.run_id, str(tmp / "f"), "model")
        client.create_registered_model("served")
        client.create_model_version("served", f"runs:/{run.info.run_id}/model")


def by_the_run_of_a_merge(store: Store, merged: CheckpointManifest, _tmp: Path) -> None:
    with open_registry(store.registry, writing=True) as opened:
        client = opened.client
        tags = {"mergeflow.kind": "merge", "mergeflow.object_id": merged.object_id}
        run = client.create_run(their_experiment(opened), tags=tags)
    version_from(store.registry, "/nothing/here", run_id=run.info.run_id)


def by_a_tag_of_their_own(store: Store, merged: CheckpointManifest, _tmp: Path) -> None:
    version_from(store.registry, "/nothing/here", tags={"weights": merged.path})


def by_a_model_without_a_version(store: Store, merged: CheckpointManifest, _tmp: Path) -> None:
    logged_model(store.registry, tags={"mergeflow.digest": merged.digest})


def by_a_model_in_a_deleted_experiment(
    store: Store, merged: CheckpointManifest, _tmp: Path
) -> None:
    version_from(
        store.registry, f"models:/{logged_model(store.registry, tags={'at': merged.path})}"
    )
    with open_registry(store.registry, writing=True) as opened:
        client = opened.client
        client.delete_experiment(client.get_experiment_by_name("theirs").experiment_id)


LEADS = [value for name, value in sorted(globals().items()) if name.startswith("by_")]


@pytest.mark.parametrize("lead", LEADS, ids=lambda lead: lead.__name__)
def test_a_version_without_our_tags_keeps_what_it_leads_to(
    store: Store, tmp_path: Path, lead: Callable[[Store, CheckpointManifest, Path], None]
) -> None:
    served, useless = store.merged(1), store.merged(2)
    lead(store, served, tmp_path)
    assert gc() == 0
    assert store.objects() == {served.object_id}
    assert useless.object_id != served.object_id
    assert gc("--empty-quarantine") == 0
    assert Path(served.path, "model.safetensors").is_file()


def test_a_version_keeps_what_it_serves_and_not_what_that_was_made_of(store: Store) -> None:
    ancestor, served = store.merged(1), store.merged(2)
    tags = {"mergeflow.base_digest": ancestor.digest, "mergeflow.object_id": served.object_id}
    version_from(store.registry, "/nothing/here", tags=tags)
    assert gc() == 0
    assert store.objects() == {served.object_id}


def test_a_version_in_a_registry_that_was_used_once_keeps_what_it_leads_to(
    store: Store, elsewhere: str
) -> None:
    served, useless = store.merged(1), store.merged(2)
    store.registry = elsewhere
    store.register_with_evidence(served)
    assert gc() == 0
    assert store.objects() == {served.object_id}, "the second registry was asked"
    assert useless.object_id not in store.objects()
    assert gc("--no-registry") == 0
    assert store.objects() == {served.object_id}, "and it cannot be left out without a word"


def test_a_registry_that_is_named_once_and_needs_something_is_asked_from_then_on(
    store: Store, elsewhere: str
) -> None:
    served = store.merged(1)
    version_from(elsewhere, served.path)
    assert gc("--tracking-uri", elsewhere) == 0
    assert gc() == 0
    assert store.objects() == {served.object_id}


def test_the_environment_names_one_registry_and_the_home_s_own_is_asked_too(
    store: Store, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = store.merged(1), store.merged(2)
    version_from(store.registry, here.path)
    version_from(elsewhere, there.path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", elsewhere)
    assert gc() == 0
    assert store.objects() == {here.object_id, there.object_id}


def test_nothing_goes_while_the_database_of_a_registry_is_gone(
    store: Store, elsewhere: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served, useless = store.merged(1), store.merged(2)
    used(store, elsewhere, served)
    (tmp_path / "else where").rename(tmp_path / "moved")
    assert gc() == 1
    said = capsys.readouterr().err
    assert "no MLflow database" in said
    assert store.objects() == {served.object_id, useless.object_id}
    (tmp_path / "moved").rename(tmp_path / "else where")
    assert gc() == 0
    assert store.objects() == {served.object_id}


def test_a_registry_that_is_gone_for_good_can_be_forgotten_by_the_command_that_is_shown(
    store: Store, elsewhere: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shlex

    served = store.merged(1)
    used(store, elsewhere, served)
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
    elsewhere: str,
    what: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    served = store.merged(1)
    registry = store.registry if what == "its own" else elsewhere
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
    store: Store, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = store.merged(1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", elsewhere)
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
    store: Store, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.registry = elsewhere
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
        elsewhere,
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


def test_a_run_of_averages_asks_every_registry_as_well(store: Store, elsewhere: str) -> None:
    from tasks.store.retention import retain

    shared, newer = store.merged(1), store.merged(2)
    own = store.registry
    used(store, elsewhere, shared)
    store.register(shared)
    store.register(newer)
    assert retain(store.home, own, name=PIPELINE, model="model", keep=1) == []
    assert store.objects() == {shared.object_id, newer.object_id}
    Path(elsewhere.removeprefix("sqlite:///")).unlink()
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
