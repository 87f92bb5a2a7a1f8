"""What `mergeflow gc` removes waits in a quarantine, from which it comes back when it is needed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.cli import program
from merge_core.homes.home import Home
from merge_core.store.quarantine import Quarantined, quarantined
from tasks.store import retention
from tasks.store.retention import retain, survey, tidy
from tests.support.merge_store import DAY, PIPELINE, Store, clear_away, made_old, merge_store
from tests.support.registrations import empty_registry, unsynced_sqlite


@pytest.fixture(scope="module", autouse=True)
def _quick_database() -> Iterator[None]:
    with unsynced_sqlite():
        yield


@pytest.fixture
def store(
    tmp_path: Path,
    home: Home,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Store]:
    """A store beside the home's own, empty database."""
    registry = empty_registry(home.mlflow, tmp_path_factory.getbasetemp() / "template.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield merge_store(tmp_path, home, registry)
    clear_away(home)


def gc(*arguments: str) -> int:
    return program.run(["gc", "--yes", "--keep", "0", "--older-than", "0m", *arguments])


def waiting(store: Store) -> list[str]:
    return [item.name for item in quarantined(store.home)]


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.name: (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in (directory, *directory.rglob("*"))
    }


def later(store: Store, seconds: float) -> None:
    """Let everything in the quarantine have been moved there some seconds earlier."""
    for item in quarantined(store.home):
        path = store.home.path / "store" / "quarantine" / item.entry / "record.json"
        moved = {"moved": item.moved - seconds, "delete_after": item.delete_after - seconds}
        path.write_text(item.model_copy(update=moved).model_dump_json())


def test_it_waits_as_it_was_and_is_deleted_by_a_later_run(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    useless = store.merged(1)
    Path(useless.path).chmod(0o555)
    before = contents(Path(useless.path))
    assert gc() == 0
    shown = capsys.readouterr().out
    assert "moved 1 to the quarantine" in shown
    assert "gc --empty-quarantine" in shown
    [item] = quarantined(store.home)
    place = store.home.path / "store" / "quarantine" / item.entry
    moved = contents(place / "item")
    assert moved == {name.replace(useless.object_id, "item"): it for name, it in before.items()}
    assert (place / "record.json").stat().st_mode & 0o777 == 0o600
    assert place.stat().st_mode & 0o777 == 0o700
    later(store, 6 * DAY)
    assert gc() == 0
    assert waiting(store) == [useless.object_id]
    later(store, 2 * DAY)
    assert program.run(["gc"]) == 0
    assert waiting(store) == [useless.object_id], "without --yes nothing is deleted"
    capsys.readouterr()
    assert gc("--json") == 0
    assert waiting(store) == []
    told = json.loads(capsys.readouterr().out)
    assert told["deleted"] == [useless.object_id]
    assert told["freed_bytes"] > 10_000


def test_the_pointer_of_a_thing_that_comes_back_is_its_owners_alone(store: Store) -> None:
    useless = store.merged(1)
    pointers = store.home.path / "store" / "plans"
    before = {path.name: path.read_bytes() for path in pointers.iterdir()}
    assert gc() == 0
    gone = before.keys() - {path.name for path in pointers.iterdir()}
    assert gone
    umask = os.umask(0o002)
    try:
        assert program.run(["gc", "--restore", useless.object_id]) == 0
    finally:
        os.umask(umask)
    assert {path.name: path.read_bytes() for path in pointers.iterdir()} == before
    assert {(pointers / name).stat().st_mode & 0o777 for name in gone} == {0o600}


@pytest.mark.parametrize("way", ["command", "by hand"])
def test_a_thing_comes_back_as_it_was_and_its_merge_is_found_again(store: Store, way: str) -> None:
    useless = store.merged(1)
    before = contents(Path(useless.path))
    assert gc() == 0
    [item] = quarantined(store.home)
    if way == "command":
        assert program.run(["gc", "--restore", useless.object_id[:12]]) == 0
    else:
        place = store.home.path / "store" / "quarantine" / item.entry / "item"
        shutil.move(place, store.home.objects / item.name)
    assert contents(Path(useless.path)) == before
    assert waiting(store) == []
    assert program.run(["gc", "--yes"]) == 0
    assert store.objects() == ({useless.object_id} if way == "command" else set())


def test_only_what_is_in_the_quarantine_can_be_restored(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = store.merged(1), store.merged(2)
    assert gc() == 0
    for wrong in ("nothing", "../objects", ""):
        code = program.run(["gc", "--restore", wrong or " "])
        assert code == 2
    assert first.object_id in capsys.readouterr().err, "the names that there are are told"
    again = store.merged(1)
    assert program.run(["gc", "--restore", again.object_id]) == 2, "it has been made again"
    assert set(waiting(store)) == {first.object_id, second.object_id}


def test_a_version_that_is_registered_while_gc_looks_brings_its_weights_back(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served, useless = store.merged(1), store.merged(2)
    move = retention.set_aside

    def move_late(home: Home, place: Any, name: str, **options: Any) -> Quarantined | None:
        if name == served.object_id:
            store.register(served)
        return move(home, place, name, **options)

    monkeypatch.setattr(retention, "set_aside", move_late)
    assert gc("--empty-quarantine") == 0
    assert "is needed after all and is back: models:/model/1" in capsys.readouterr().out
    assert store.objects() == {served.object_id}
    assert waiting(store) == []
    assert useless.object_id not in store.objects()


def test_a_version_that_is_registered_later_brings_its_weights_back(store: Store) -> None:
    served = store.merged(1)
    assert gc() == 0
    store.register(served)
    later(store, 9 * DAY)
    assert gc() == 0
    assert store.objects() == {served.object_id}
    assert Path(served.path, "model.safetensors").is_file()


def test_everything_goes_back_when_a_registry_does_not_answer_the_second_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    useless = store.merged(1)
    before = contents(Path(useless.path))
    move = retention.set_aside

    def move_late(*arguments: Any, **options: Any) -> Quarantined | None:
        moved = move(*arguments, **options)
        (store.home.path / "registries.json").write_text(
            '{"registries": [{"address": "http://127.0.0.1:9", "noted": "now"}]}'
        )
        return moved

    monkeypatch.setattr(retention, "set_aside", move_late)
    assert gc("--empty-quarantine") == 1
    assert contents(Path(useless.path)) == before
    assert waiting(store) == []


def test_a_merge_that_begins_while_gc_looks_keeps_its_directory(store: Store) -> None:
    begun = store.home.staging / "begun"
    begun.mkdir(parents=True)
    (begun / "lock").touch()
    made_old(begun, 9 * DAY)
    items = survey(store.home, None, keep=0, older_than_seconds=0)
    assert [item.kept for item in items] == [None]
    with (begun / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert tidy(store.home, None, items, keep=0).moved == ()
    assert begun.is_dir()
    assert [item.name for item in tidy(store.home, None, items, keep=0).moved] == ["begun"]


def test_several_that_tidy_at_once_lose_nothing_and_fail_at_nothing(store: Store) -> None:
    served, *useless = [store.merged(weight) for weight in (1, 2, 3, 4)]
    store.register(served)
    items = survey(store.home, None, keep=0, older_than_seconds=0)
    done: list[retention.Tidied] = []
    threads = [
        threading.Thread(target=lambda: done.append(tidy(store.home, None, items, keep=0)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(item.name for each in done for item in each.moved) == sorted(
        each.object_id for each in useless
    )
    assert [each.failed for each in done] == [(), (), ()]
    assert store.objects() == {served.object_id}


def test_what_an_older_average_needs_is_deleted_with_the_next_average(store: Store) -> None:
    merges = [store.merged(weight) for weight in (1, 2, 3)]
    for merged in merges[:2]:
        store.register(merged)
    arguments = {"name": PIPELINE, "model": "model", "keep": 1}
    gone = retain(store.home, store.registry, **arguments)
    assert {item.name for item in gone} == {merges[0].object_id}
    assert waiting(store) == [merges[0].object_id]
    store.register(merges[2])
    retain(store.home, store.registry, **arguments)
    assert waiting(store) == [merges[1].object_id], "so the disk holds one more than are kept"
    assert store.objects() == {merges[2].object_id}


def test_an_entry_that_is_not_ours_is_left_alone(store: Store, tmp_path: Path) -> None:
    useless = store.merged(1)
    assert gc() == 0
    quarantine = store.home.path / "store" / "quarantine"
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    [item] = quarantined(store.home)
    other = f"{'7' * 64}.20260101T000000Z.00000000"
    (quarantine / other).symlink_to(tmp_path / "precious")
    (quarantine / "notes").mkdir()
    lying = item.model_copy(update={"entry": "../../..", "name": "../../.."})
    planted = quarantine / f"{'8' * 64}.20260101T000000Z.00000000"
    (planted / "item").mkdir(parents=True)
    (planted / "record.json").write_text(lying.model_dump_json())
    assert waiting(store) == [useless.object_id]
    assert gc("--empty-quarantine") == 0
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years of work"
    assert {path.name for path in quarantine.iterdir()} == {".lock", "notes", other, planted.name}


def test_an_entry_without_a_thing_is_nothing(store: Store) -> None:
    store.merged(1)
    assert gc() == 0
    [item] = quarantined(store.home)
    place = store.home.path / "store" / "quarantine" / item.entry / "item"
    os.rename(place, store.home.path / "taken")  # noqa: PTH104
    assert waiting(store) == []
    assert gc("--empty-quarantine") == 0
    assert (store.home.path / "taken" / "model.safetensors").is_file()
