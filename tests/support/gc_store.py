"""What tests of `mergeflow gc` do and look at: the command, versions that people make, links."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flows.cli import program
from merge_core.records import CheckpointManifest
from tasks.registry.client import (
    ensure_experiment,
    open_registry,
    process_tracking_uri,
)
from tests.support.merge_store import Store

ID = "{:064x}".format
"""The id of an object, of a number."""


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


def used(store: Store, registry: str, merged: CheckpointManifest) -> str:
    """Register a merge as a run does, but for its evidence; the version."""
    from tasks.registry.memory import note_store_of

    with open_registry(registry, writing=True) as opened:
        note_store_of(merged.path, registry, opened, ensure_experiment(opened, "merges"))
    return replace(store, registry=registry).register(merged)


def state(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Everything of a tree that must not change."""
    paths = (directory, *sorted(directory.rglob("*")))
    return {
        str(path): (
            (status := path.lstat()).st_mode,
            status.st_mtime_ns,
            status.st_ctime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in paths
    }


def link_to(place: Path, target: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)
    return place
