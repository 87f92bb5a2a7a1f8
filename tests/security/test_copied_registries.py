"""MLflow's records in a home that was copied or moved lead into that home, and to no other."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from merge_core.errors import MergeflowError, StepError
from merge_core.homes.home import Home
from tasks.lineage.text import render_lineage
from tasks.lineage.trace import lineage
from tasks.records import Registration
from tasks.registry import loader
from tasks.registry.client import open_registry
from tasks.registry.places import follow_home
from tests.support.merge_store import Store, clear_away, merge_store
from tests.support.registrations import copied_registry, empty_registry, source, unsynced_sqlite
from tests.support.registry_contents import client


def address(home: Path) -> str:
    return f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"


def run_in(home: Path, weight: float = 0.5) -> Registration:
    """What a pipeline does that runs in a home: its result goes into the store and is promoted."""
    models = home.parents[1] / "models"
    store = Store(Home(home), address(home), source(models / "base"), source(models / "tuned"))
    return store.decided(store.merged(weight), promote=True)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home in which a pipeline ran."""
    directory = tmp_path_factory.mktemp("first")
    home = directory / "in" / "a home"
    empty_registry(home / "mlflow", tmp_path_factory.getbasetemp() / "template.db")
    (directory / "models").mkdir()
    merge_store(directory / "models", Home(home), address(home))
    with unsynced_sqlite():
        run_in(home)
        yield home
    clear_away(Home(home))


@pytest.fixture
def place(tmp_path: Path, template: Path) -> Iterator[Path]:
    """Where homes of a test are: beside the models that they merge."""
    (tmp_path / "models").symlink_to(template.parents[1] / "models")
    place = tmp_path / "in"
    place.mkdir()
    yield place
    clear_away(Home(place))


@pytest.fixture
def original(template: Path, place: Path) -> Path:
    """A home of this test's own, which was registered in at this very place."""
    home = copied(template, place / "an original")
    follow_home(home / "mlflow" / "mlflow.db")
    return home


def copied(home: Path, to: Path) -> Path:
    """What `cp -a` makes."""
    subprocess.run(["cp", "-a", home, to], check=True)
    return to


def contents(home: Path) -> dict[str, bytes]:
    return {str(p.relative_to(home)): p.read_bytes() for p in home.rglob("*") if p.is_file()}


def leads(home: Path) -> set[str]:
    """Every text in MLflow's database and descriptions, but what a run recorded as evidence."""
    found: set[str] = set()
    with sqlite3.connect(home / "mlflow" / "mlflow.db") as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            for row in database.execute(f"SELECT * FROM {table}"):
                found |= {value for value in row if isinstance(value, str)}
    for path in (home / "mlflow" / "artifacts" / "models").rglob("*"):
        if path.name in ("checkpoint.json", "MLmodel"):
            found.add(path.read_text())
    return found


def test_a_pipeline_in_a_copy_changes_nothing_in_the_original(original: Path, place: Path) -> None:
    copy = copied(original, place / "copy of it")
    before = contents(original)
    result = run_in(copy, 0.7)
    assert contents(original) == before
    assert not any(str(original) in text or original.as_uri() in text for text in leads(copy))
    run = client(address(copy)).get_run(result.run_id)
    assert run.info.artifact_uri.startswith(copy.as_uri())
    assert (copy / "mlflow" / "artifacts" / result.run_id / "artifacts" / "decision.md").exists()
    assert len(client(address(copy)).search_model_versions("name = 'model'")) == 3


def test_a_process_that_has_read_the_original_writes_into_the_copy(
    original: Path, place: Path
) -> None:
    with open_registry(address(original)) as opened:
        [version] = opened.client.search_model_versions("name = 'model' AND version_number = 2")
        run_id = version.tags["mergeflow.run_id"]
        assert opened.client.list_artifacts(run_id)
    copy = copied(original, place / "copy of it")
    before = contents(original)
    with open_registry(address(copy)) as opened:
        opened.client.log_text(run_id, "of the copy", "word.txt")
    assert contents(original) == before
    assert (copy / "mlflow" / "artifacts" / run_id / "artifacts" / "word.txt").exists()


def test_what_was_registered_before_is_read_in_the_copy_when_the_original_is_gone(
    original: Path, place: Path
) -> None:
    copy = copied(original, place / "copy")
    clear_away(Home(original))
    found = lineage("models:/model@champion", address(copy))
    assert found.top.path
    assert Path(found.top.path).is_relative_to(copy)
    assert str(copy) in render_lineage(found)
    assert str(original) not in render_lineage(found)
    model = copy / "mlflow" / "artifacts" / "models" / str(found.top.logged_model_id) / "artifacts"
    loader.check_files(json.loads((model / "checkpoint.json").read_text()), "digests")
    assert str(copy) in (model / "MLmodel").read_text()
    run_in(copy)
    assert not original.exists()


def test_a_home_that_was_moved_does_not_make_the_old_place_again(
    original: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = original.rename(place / "elsewhere")
    with caplog.at_level(logging.WARNING, "mergeflow.home"):
        run_in(moved, 0.7)
        follow_home(moved / "mlflow" / "mlflow.db")
    assert not original.exists()
    [word] = [record.getMessage() for record in caplog.records if record.name == "mergeflow.home"]
    assert word.startswith(f"{moved} was moved or copied here from {original}: ")


def test_a_link_at_the_old_place_goes_on_to_do(original: Path, place: Path) -> None:
    moved = original.rename(place / "elsewhere")
    original.symlink_to(moved)
    result = run_in(moved)
    run = client(address(moved)).get_run(result.run_id)
    assert run.info.artifact_uri.startswith(original.as_uri())
    original.unlink()
    run_in(moved)
    assert not any(str(original) in text for text in leads(moved))


def test_what_was_written_to_the_old_place_after_the_move_is_copied_here(
    original: Path, place: Path
) -> None:
    """As mergeflow did before it looked at this."""
    moved = copied(original, place / "elsewhere")
    [run] = (moved / "mlflow" / "artifacts").glob("*/artifacts/decision.md")
    lost = run.parent.parent
    shutil.rmtree(lost)
    original.chmod(0o700)
    theirs = original / "mlflow" / "artifacts" / lost.name / "artifacts" / "link"
    theirs.symlink_to("/etc/passwd")
    follow_home(moved / "mlflow" / "mlflow.db")
    assert run.read_bytes() == (theirs.parent / "decision.md").read_bytes()
    assert not (run.parent / "link").is_symlink()


def test_what_others_can_have_put_at_the_old_place_is_not_copied(
    original: Path, place: Path
) -> None:
    moved = copied(original, place / "elsewhere")
    [run] = (moved / "mlflow" / "artifacts").glob("*/artifacts/decision.md")
    shutil.rmtree(run.parent.parent)
    original.chmod(0o777)
    follow_home(moved / "mlflow" / "mlflow.db")
    assert not run.parent.parent.exists()


def test_a_home_with_a_server_s_addresses_leads_to_its_own_checkpoints(
    original: Path, place: Path
) -> None:
    """Such as `mergeflow up` wrote them, in a home from before its place was noted."""
    with sqlite3.connect(original / "mlflow" / "mlflow.db") as database:
        root = (original / "mlflow" / "artifacts").as_uri()
        for table, column in (
            *(("experiments", "artifact_location"), ("runs", "artifact_uri")),
            *(("logged_models", "artifact_location"), ("model_versions", "storage_location")),
        ):
            change = f"UPDATE {table} SET {column} = replace({column}, ?, 'mlflow-artifacts:')"
            database.execute(change, [root])
    (original / "mlflow" / "place").unlink()
    moved = original.rename(place / "elsewhere")
    follow_home(moved / "mlflow" / "mlflow.db")
    assert not any(str(original) in text for text in leads(moved) if "file:" not in text)
    records = list((moved / "mlflow" / "artifacts" / "models").rglob("checkpoint.json"))
    places = {json.loads(path.read_text())["path"] for path in records}
    assert sum(str(moved) in place for place in places) == 1


def test_a_copy_by_hard_links_is_refused_before_it_changes_the_original(
    original: Path, place: Path
) -> None:
    subprocess.run(["cp", "-al", original, place / "copy"], check=True)
    copy = place / "copy"
    before = contents(original / "mlflow")
    with pytest.raises(MergeflowError, match="by hard links") as refused:
        run_in(copy, 0.7)
    assert contents(original / "mlflow") == before
    [advised] = re.findall(r"(cp -p .*)$", str(refused.value.mend))
    subprocess.run(["sh", "-c", advised], cwd=copy / "mlflow", check=True)
    run_in(copy, 0.7)
    assert contents(original / "mlflow") == before


def test_a_moved_home_that_cannot_be_changed_is_told_and_can_be_once_it_may(
    original: Path, place: Path
) -> None:
    moved = original.rename(place / "elsewhere")
    lock = moved / "mlflow" / "mlflow.db.lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()
    with pytest.raises(StepError, match="was moved or copied") as refused:
        run_in(moved, 0.7)
    assert "see that you may write there" in str(refused.value.mend)
    lock.rmdir()
    run_in(moved, 0.7)
    assert not original.exists()


def test_only_what_begins_with_the_old_place_is_changed(original: Path, place: Path) -> None:
    sibling = Path(f"{original}-2")
    kept = {
        "mergeflow.path": str(sibling / "models"),
        "mergeflow.reference": str(original / "gone"),
        "mine": str(original / "store"),
    }
    with sqlite3.connect(original / "mlflow" / "mlflow.db") as database:
        [model, *_] = database.execute("SELECT model_id FROM logged_models").fetchone()
        for key, value in kept.items():
            database.execute(
                "UPDATE logged_model_tags SET tag_value = ? WHERE model_id = ? AND tag_key = ?",
                [value, model, key],
            )
        location = (sibling / "artifacts").as_uri()
        database.execute(
            "UPDATE runs SET artifact_uri = ? WHERE run_uuid IN (SELECT min(run_uuid) FROM runs)",
            [location],
        )
    moved = original.rename(place / "elsewhere")
    follow_home(moved / "mlflow" / "mlflow.db")
    assert {location, kept["mergeflow.path"], kept["mergeflow.reference"]} <= leads(moved)


def test_a_copy_inside_the_original_is_brought_along_once(original: Path) -> None:
    inside = original / "backup"
    shutil.copytree(original, inside, symlinks=True, ignore=shutil.ignore_patterns("backup"))
    for _ in range(2):
        follow_home(inside / "mlflow" / "mlflow.db")
        assert not any(f"{inside}/backup" in text for text in leads(inside))
        (inside / "mlflow" / "place").write_bytes(os.fsencode(original))
    with open_registry(address(inside)) as registry:
        for run in registry.client.search_runs(["1"]):
            assert run.info.artifact_uri.startswith(inside.as_uri())


def test_a_database_that_was_copied_without_a_home_keeps_its_artifacts(
    original: Path, place: Path
) -> None:
    (place / "alone").mkdir()
    alone = copied_registry(address(original), place / "alone")
    with open_registry(alone) as registry:
        assert all(
            run.info.artifact_uri.startswith(original.as_uri())
            for run in registry.client.search_runs(["1"])
        )


def test_a_home_that_stays_is_not_written_to(original: Path) -> None:
    before = contents(original)
    follow_home(original / "mlflow" / "mlflow.db")
    assert {k: v for k, v in contents(original).items() if k != "mlflow/mlflow.db.lock"} == {
        k: v for k, v in before.items() if k != "mlflow/mlflow.db.lock"
    }
