"""What of the store is removed, and what never is, with a real registry and real merges."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from flows.cli import program
from merge_core.errors import MergeflowError, StepError
from merge_core.homes.home import Home
from merge_core.operations.trajectory.records import RunCheckpoint
from tasks.registry.client import open_registry
from tasks.registry.past_averages import RegisteredAt, averages_of, is_registered
from tasks.store.retention import remove, retain, retire_versions, survey
from tests.support.merge_store import DAY, PIPELINE, Store, clear_away, made_old, merge_store


@pytest.fixture
def store(tmp_path: Path, home: Home, registry: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store beside an empty registry."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry)
    return merge_store(tmp_path, home, registry)


def versions(store: Store, name: str = "model") -> set[str]:
    with open_registry(store.registry) as registry:
        found = registry.client.search_model_versions(f"name = '{name}'")
        return {str(v.version) for v in found if v.tags["mergeflow.role"] == "merged"}


def test_only_what_nothing_refers_to_can_go(store: Store) -> None:
    champion, fallen, averaged, young, useless = (
        store.merged(weight, age=60 if weight == 4 else 2 * DAY) for weight in (1, 2, 3, 4, 5)
    )
    numbers = [store.register(fallen), store.register(champion, alias="champion")]
    store.record(averaged, 10)
    assert store.survey() == {
        fallen.object_id: f"models:/model/{numbers[0]}",
        champion.object_id: f"models:/model/{numbers[1]}",
        averaged.object_id: "one of the last 1 averages of nightly",
        young.object_id: "young: a run may be about to register it",
        useless.object_id: None,
    }
    remove(store.home, survey(store.home, store.registry, keep=1, older_than_seconds=DAY))
    kept = {each.object_id for each in (champion, fallen, averaged, young)}
    assert store.objects() == kept
    assert Path(champion.path, "model.safetensors").is_file()


def test_what_an_alias_or_a_version_names_stays_whatever_is_asked(store: Store) -> None:
    fallen, champion = store.merged(1), store.merged(2)
    store.register(fallen)
    store.register(champion, alias="champion")
    assert program.run(["gc", "--yes", "--keep", "0", "--older-than", "0m"]) == 0
    assert store.objects() == {fallen.object_id, champion.object_id}


def test_gc_shows_first_and_removes_only_when_told(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    useless = store.merged(1)
    plans = list((store.home.path / "store" / "plans").iterdir())
    assert program.run(["gc"]) == 0
    shown = capsys.readouterr().out
    assert "nothing needs it" in shown
    assert "1 could go" in shown
    assert store.objects() == {useless.object_id}
    assert program.run(["gc", "--yes", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["moved_bytes"] > 10_000
    assert told["freed_bytes"] == 0, "what waits in the quarantine takes as much room as before"
    assert [item["name"] for item in told["items"]] == [useless.object_id]
    assert store.objects() == set()
    assert plans
    assert not any(path.exists() for path in plans)
    again = store.merged(1)
    assert again.object_id == useless.object_id


def test_without_a_registry_nothing_is_known_so_nothing_is_removed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    useless = store.merged(1)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert program.run(["gc", "--yes"]) == 2
    with pytest.raises(MergeflowError, match="no MLflow database"):
        survey(store.home, f"sqlite:///{tmp_path}/gone.db", keep=1, older_than_seconds=0)
    assert store.objects() == {useless.object_id}
    assert program.run(["gc", "--yes", "--no-registry"]) == 0
    assert store.objects() == set()


def test_an_average_that_is_registered_elsewhere_is_left_to_that_registry(store: Store) -> None:
    manifest = store.merged(1)
    place = RegisteredAt(tracking_uri="http://127.0.0.1:9", model="m", version="1")
    store.record(manifest, 10, place)
    with pytest.raises(StepError, match=r"127\.0\.0\.1:9: the MLflow server does not answer"):
        store.survey(keep=0)


def test_an_abandoned_merge_can_go_and_one_at_work_cannot(store: Store) -> None:
    for name in ("abandoned", "at-work"):
        (store.home.staging / name).mkdir(parents=True)
        (store.home.staging / name / "lock").touch()
        made_old(store.home.staging / name, 2 * DAY)
    with (store.home.staging / "at-work" / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert store.survey() == {"abandoned": None, "at-work": "a merge is working on it"}


def test_the_latest_averages_without_an_alias_stay_and_older_ones_go(store: Store) -> None:
    merges = [store.merged(weight) for weight in (1, 2, 3, 4, 5)]
    aliases = ["archive", "champion", None, None, None]
    numbers = [
        store.register(each, alias=alias) for each, alias in zip(merges, aliases, strict=True)
    ]
    other = store.register(store.merged(6), pipeline="another")
    gone = retain(store.home, store.registry, name=PIPELINE, model="model", keep=2)
    assert {item.name for item in gone} == {merges[2].object_id}
    assert versions(store) == {numbers[0], numbers[1], numbers[3], numbers[4], other}
    assert merges[2].object_id not in store.objects()
    assert {each.object_id for each in merges} - store.objects() == {merges[2].object_id}
    assert retain(store.home, store.registry, name=PIPELINE, model="model", keep=2) == []


def test_the_run_of_a_removed_version_stays_with_its_evidence(store: Store) -> None:
    merges = [store.merged(weight) for weight in (1, 2)]
    store.register_with_evidence(merges[0])
    store.register(merges[1])
    with open_registry(store.registry, writing=True) as registry:
        removed = retire_versions(registry, "model", PIPELINE, 1)
        assert [each.object_id for each in removed] == [merges[0].object_id]
        runs = registry.client.search_runs(
            [registry.client.get_experiment_by_name("merges").experiment_id],
            f"tags.`mergeflow.digest` = '{merges[0].digest}' and tags.`mergeflow.kind` = 'merge'",
        )
    assert len(runs) == 1
    assert runs[0].data.metrics["gain"]


def test_weights_that_another_version_has_too_stay(store: Store) -> None:
    shared, newer = store.merged(1), store.merged(2)
    store.register(shared)
    store.register(shared, name="other-model", pipeline="another")
    store.register(newer)
    assert retain(store.home, store.registry, name=PIPELINE, model="model", keep=1) == []
    assert store.objects() == {shared.object_id, newer.object_id}


def test_a_record_counts_only_while_what_it_says_holds(store: Store) -> None:
    manifest = store.merged(1)
    version = store.register(manifest)
    place = RegisteredAt(tracking_uri=store.registry, model="model", version=version)
    record = store.record(manifest, 10, place)
    assert averages_of(store.home, PIPELINE) == [record]
    assert is_registered(record, store.registry)
    with open_registry(store.registry, writing=True) as registry:
        registry.client.delete_model_version("model", version)
    assert not is_registered(record, store.registry)
    for path in (store.home.averages / PIPELINE).iterdir():
        path.write_text("{")
    assert averages_of(store.home, PIPELINE) == []


def test_a_record_covers_the_checkpoints_it_saw_and_no_newer_one(store: Store) -> None:
    record = store.record(store.merged(1), 10)

    def points(*steps: int) -> list[Any]:
        return [
            RunCheckpoint(step=s, name=f"c{s}", reference=f"/c{s}", identity=str(s)) for s in steps
        ]

    seen = record.model_copy(update={"seen": tuple(points(10, 20, 30))})
    assert seen.covers(points(10, 20, 30))
    assert seen.covers(points(20, 30)), "the training removed an old one"
    assert not seen.covers(points(10, 20))
    assert not seen.covers(points(10, 20, 30, 40))
    assert not seen.covers(points(5, 30))


@pytest.fixture(autouse=True)
def _writable(home: Home) -> Any:
    """Let pytest clear away what was published read-only."""
    yield
    clear_away(home)
