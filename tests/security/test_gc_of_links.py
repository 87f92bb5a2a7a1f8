"""Nothing that is odd in the store, a link first of all, stops `mergeflow gc` or leads it out."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from merge_core.homes.home import Home
from tests.support.gc_store import ID, gc, state
from tests.support.merge_store import DAY, Store, clear_away, made_old
from tests.support.registrations import empty_registry
from tests.support.slow_cases import first_few

pytest_plugins = ["tests.support.gc_fixtures"]


def in_place_of_an_object(store: Store, target: Path) -> Path:
    link = store.home.objects / ID(7)
    link.symlink_to(target)
    return link


def with_a_name_of_its_own(store: Store, target: Path) -> Path:
    link = store.home.objects / "linked"
    link.symlink_to(target)
    return link


def to_a_file(store: Store, target: Path) -> Path:
    link = store.home.objects / ID(7)
    link.symlink_to(target / "deep" / "thesis.txt")
    return link


def in_place_of_staging(store: Store, target: Path) -> Path:
    store.home.staging.mkdir(parents=True, exist_ok=True)
    link = store.home.staging / ID(7)
    link.symlink_to(target)
    return link


def in_an_object(store: Store, target: Path) -> Path:
    directory = store.home.objects / ID(7)
    directory.mkdir()
    (directory / "weights").symlink_to(target)
    (directory / "model.safetensors").symlink_to(target / "deep" / "thesis.txt")
    return directory


def left_by_an_old_gc(store: Store, target: Path) -> Path:
    link = store.home.objects / f".removed-{ID(7)}"
    link.symlink_to(target)
    return link


def in_a_merge_s_place(store: Store, target: Path) -> Path:
    directory = store.home.staging / ID(7)
    directory.mkdir(parents=True)
    (directory / "checkpoint").symlink_to(target)
    (directory / "lock").symlink_to(target / "lock")
    return directory


PLACES = [
    in_place_of_an_object,
    with_a_name_of_its_own,
    to_a_file,
    in_place_of_staging,
    in_an_object,
    left_by_an_old_gc,
    in_a_merge_s_place,
]


@pytest.mark.parametrize("place", first_few(PLACES, 3), ids=lambda place: place.__name__)
def test_a_link_stops_nothing_and_its_target_is_not_touched(
    store: Store, precious: Path, place: Callable[[Store, Path], Path]
) -> None:
    useless = store.merged(1)
    planted = place(store, precious)
    before = state(precious)
    assert gc() == 0
    assert useless.object_id not in store.objects()
    assert gc("--empty-quarantine") == 0
    assert state(precious) == before
    if place is not with_a_name_of_its_own and place is not in_a_merge_s_place:
        assert not os.path.lexists(planted), "the link itself is ours to remove"


@pytest.mark.parametrize("name", ["objects", "staging", "quarantine", "plans"])
def test_a_link_in_place_of_a_part_of_the_store_leads_nowhere(
    store: Store, precious: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store.merged(1)
    (precious / "deep").chmod(0o700)
    precious.chmod(0o750)
    (precious / ID(7)).mkdir()
    (precious / ID(7) / "model.safetensors").write_text("somebody's")
    (precious / ID(8)).write_text(ID(9))
    made_old(precious, 9 * DAY)
    part = store.home.path / "store" / name
    if part.exists():
        part.rename(part.with_name("aside"))
    part.symlink_to(precious)
    before = state(precious)
    code = gc("--empty-quarantine")
    assert code == (2 if name == "quarantine" else 0)
    assert state(precious) == before
    assert f"{part} is a link" in " ".join(capsys.readouterr().err.split())


def test_a_link_in_place_of_the_whole_store_leads_nowhere(store: Store, tmp_path: Path) -> None:
    theirs = store.merged(1)
    place = store.home.path / "store"
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    before = state(tmp_path / "elsewhere")
    assert gc() == 0
    assert state(tmp_path / "elsewhere") == before
    assert theirs.object_id in store.objects()


def test_what_a_link_of_something_kept_leads_to_is_kept_as_well(store: Store) -> None:
    served, shared, useless = store.merged(1), store.merged(2), store.merged(3)
    weights = Path(served.path, "model.safetensors")
    Path(served.path).chmod(0o755)
    weights.unlink()
    weights.symlink_to(Path(shared.path, "model.safetensors"))
    alias = store.home.objects / ID(7)
    alias.symlink_to(served.path)
    store.register(served)
    assert gc() == 0
    assert store.objects() == {served.object_id, shared.object_id, ID(7)}
    assert useless.object_id not in store.objects()


def test_a_file_that_has_another_name_elsewhere_keeps_it_with_its_mode(
    store: Store, tmp_path: Path
) -> None:
    useless = store.merged(1)
    other = tmp_path / "other name"
    other.hardlink_to(Path(useless.path, "model.safetensors"))
    before = (other.stat().st_mode, other.read_bytes())
    assert gc("--empty-quarantine") == 0
    assert (other.stat().st_mode, other.read_bytes()) == before
    assert store.objects() == set()


def a_fifo_for_a_manifest(objects: Path) -> None:
    (objects / ID(7)).mkdir()
    os.mkfifo(objects / ID(7) / "mergeflow_manifest.json")


def a_fifo(objects: Path) -> None:
    os.mkfifo(objects / ID(7))


def a_socket(objects: Path) -> None:
    (objects / ID(7)).mkdir()
    here = Path.cwd()
    os.chdir(objects / ID(7))  # the path of a socket has to be short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("s")
    finally:
        os.chdir(here)


def a_file(objects: Path) -> None:
    (objects / ID(7)).write_text("no directory")


def a_loop(objects: Path) -> None:
    (objects / ID(7)).symlink_to(objects / ID(7))


def a_link_to_nothing(objects: Path) -> None:
    (objects / ID(7)).symlink_to("/nowhere/at/all")


def read_only_directories(objects: Path) -> None:
    (objects / ID(7) / "a" / "b").mkdir(parents=True)
    (objects / ID(7) / "a" / "b" / "f").write_text("x")
    for path in (objects / ID(7) / "a" / "b", objects / ID(7) / "a", objects / ID(7)):
        path.chmod(0o555)


def closed_directories(objects: Path) -> None:
    (objects / ID(7) / "a").mkdir(parents=True)
    (objects / ID(7) / "a" / "f").write_text("x")
    (objects / ID(7) / "a").chmod(0)
    (objects / ID(7)).chmod(0)


ODD = [
    a_fifo_for_a_manifest,
    a_fifo,
    a_socket,
    a_file,
    a_loop,
    a_link_to_nothing,
    read_only_directories,
    closed_directories,
]


@pytest.mark.parametrize("odd", first_few(ODD, 2), ids=lambda odd: odd.__name__)
def test_what_is_odd_goes_like_everything_else(store: Store, odd: Callable[[Path], None]) -> None:
    store.merged(1)
    odd(store.home.objects)
    assert gc("--empty-quarantine") == 0
    assert store.objects() == set()
    assert {path.name for path in (store.home.path / "store" / "quarantine").iterdir()} == {".lock"}


def test_a_tree_deeper_than_a_path_may_be_long_goes_as_well(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(Path(tempfile.mkdtemp(prefix="mergeflow-test-")))  # pytest could not remove it
    monkeypatch.setenv("MERGEFLOW_HOME", str(home.path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    try:
        empty_registry(home.mlflow, tmp_path_factory.getbasetemp() / "template.db")
        (home.objects / ID(7)).mkdir(parents=True)
        descriptor = os.open(home.objects / ID(7), os.O_RDONLY)
        for _ in range(1200):
            os.mkdir("deep", dir_fd=descriptor)
            below = os.open("deep", os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        os.close(descriptor)
        assert gc("--empty-quarantine") == 0
        assert not list(home.objects.iterdir())
        assert {path.name for path in (home.path / "store/quarantine").iterdir()} == {".lock"}
    finally:
        clear_away(home)


@pytest.mark.parametrize(
    "name",
    [
        b"my backup",
        b"\x1b]0;hi\x07\x1b[2Jx",
        b"new\nline",
        b"\xff\xfe",
        b"[red]x",
        b"\xe2\x80\xaex",
    ],
)
def test_a_name_that_no_merge_gives_is_shown_plainly_and_left_alone(
    store: Store, capsys: pytest.CaptureFixture[str], name: bytes
) -> None:
    useless = store.merged(1)
    for place in (store.home.objects, store.home.staging):
        path = os.path.join(os.fsencode(place), name)  # noqa: PTH118 - bytes that are no text
        os.makedirs(path)  # noqa: PTH103
    assert gc() == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert shown.count("left alone") == 2
    assert gc("--json") == 0
    assert json.loads(capsys.readouterr().out)["failed"] == []
    assert os.fsencode(store.home.objects) + b"/" + name in [
        os.fsencode(path) for path in store.home.objects.iterdir()
    ]
    assert useless.object_id not in store.objects()


def test_a_directory_in_staging_that_is_no_merge_s_is_left_alone(store: Store) -> None:
    strange = store.home.staging / "notes"
    strange.mkdir(parents=True)
    (strange / "thesis.txt").write_text("years of work")
    assert gc("--empty-quarantine") == 0
    assert (strange / "thesis.txt").read_text() == "years of work"


def test_one_that_cannot_be_moved_is_named_and_stops_nothing_else(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stuck, useless = store.merged(1), store.merged(2)
    rename = os.rename

    def no_rename(source: str, target: str, **options: int) -> None:
        if source == stuck.object_id:
            raise PermissionError(1, "Operation not permitted", source)
        rename(source, target, **options)

    monkeypatch.setattr(os, "rename", no_rename)
    assert gc() == 2
    assert stuck.object_id in capsys.readouterr().err
    assert store.objects() == {stuck.object_id}
    assert useless.object_id not in store.objects()
    monkeypatch.undo()
