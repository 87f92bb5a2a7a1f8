"""`mergeflow gc` removes nothing that any registry serves, however that registry leads to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from merge_core.records import CheckpointManifest
from tasks.registry.client import (
    Registry,
    open_registry,
    process_tracking_uri,
)
from tests.support.gc_store import gc, link_to, version_from
from tests.support.merge_store import Store
from tests.support.slow_cases import first_few

pytest_plugins = ["tests.support.gc_fixtures"]


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


def file_with(directory: Path, name: str, text: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(text)
    return directory


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


@pytest.mark.parametrize("lead", first_few(LEADS, 5), ids=lambda lead: lead.__name__)
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
