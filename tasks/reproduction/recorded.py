"""What is recorded of how a version was merged: by its lock, or as far as older records tell.

Of several places that say the same, the first is taken that agrees with the version's digest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from merge_core.errors import MergeflowError
from merge_core.output.manifest import read_manifest
from merge_core.output.model_files import RECIPE_NAME
from merge_core.planning.layout import DEFAULT_SHARD_BYTES
from merge_core.recipes.loading import parse_recipe
from merge_core.recipes.recipe import Recipe
from merge_core.records import CheckpointManifest, SourceCheckpoint
from tasks.audit.evidence import Evidence
from tasks.registry.addresses import digest_of_version
from tasks.registry.client import TAG
from tasks.registry.described import described_model
from tasks.registry.file_list import sha256_of
from tasks.registry.lock import LOCK, Lock, LockedPlace, LockedSource
from tasks.registry.models import find_logged_model

T = TypeVar("T")


class Described(NamedTuple):
    """A source, and the files that MLflow lists of it."""

    locked: LockedSource
    known: SourceCheckpoint | None


@dataclass(frozen=True)
class RecordedMerge:
    """Everything that making a merge again starts from."""

    uri: str
    manifest: CheckpointManifest
    recipe: Recipe
    lock: Lock | None
    sources: dict[str, Described]
    """By reference."""
    shard_bytes: int
    environment: dict[str, Any]
    problems: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)


def recorded_merge(evidence: Evidence, shard_bytes: int | None = None) -> RecordedMerge:
    """Read the record of a version.

    Args:
        shard_bytes: for a version without a lock.

    Raises:
        MergeflowError: mergeflow did not register it, no merge made it, or nothing is left that
            says how.
    """
    digest_of_version(evidence.version)
    if not evidence.is_merge:
        raise MergeflowError(
            "this version is a base: it was registered as it is, and not merged here",
            where=evidence.address,
            mend="name a version with a verdict: `mergeflow lineage` shows how it was made",
        )
    problems: list[str] = []
    assumed: list[str] = []
    manifest = _manifest(evidence, problems, assumed)
    recipe = _recipe(evidence, manifest, problems, assumed)
    lock = _lock(evidence, recipe, manifest, problems, assumed)
    sources = _sources(evidence, lock, recipe, manifest)
    if lock is None:
        size = shard_bytes or DEFAULT_SHARD_BYTES
        said = "as given" if shard_bytes else "the default"
        assumed.append(f"weight files of at most {size:,} bytes, {said}")
    else:
        size = lock.shard_bytes
        if shard_bytes not in (None, size):
            assumed.append(f"the lock's shard size, {size:,} bytes, and not the one asked for")
    return RecordedMerge(
        uri=evidence.address,
        manifest=manifest,
        recipe=recipe,
        lock=lock,
        sources=sources,
        shard_bytes=size,
        environment=_json(evidence.file("environment.json")),
        problems=problems,
        assumed=assumed,
    )


def _manifest(evidence: Evidence, problems: list[str], assumed: list[str]) -> CheckpointManifest:
    """The run's, or the one beside the checkpoint: whichever is of the version's object."""
    beside = evidence.checkpoint
    places: list[tuple[str, Callable[[], CheckpointManifest | None]]] = [
        ("the run's manifest.json", lambda: evidence.manifest)
    ]
    if beside is not None:
        places.append(
            ("the manifest beside the checkpoint", lambda: read_manifest(beside.directory))
        )
    digest, object_id = evidence.digest, evidence.fact("object_id")
    return _first(
        evidence,
        places,
        lambda manifest: (
            manifest.digest == digest and object_id in (manifest.object_id, None)  # None: run gone
        ),
        problems,
        assumed,
    )


def _recipe(
    evidence: Evidence, manifest: CheckpointManifest, problems: list[str], assumed: list[str]
) -> Recipe:
    """The run's, or the one beside the checkpoint: whichever has the manifest's recipe digest."""
    beside = evidence.checkpoint
    places: list[tuple[str, Callable[[], Recipe | None]]] = [
        ("the run's recipe.yaml", lambda: _parsed(evidence.file("recipe.yaml")))
    ]
    if beside is not None:
        file = beside.directory / RECIPE_NAME
        places.append(("the recipe beside the checkpoint", lambda: _parsed(file.read_bytes())))
    return _first(
        evidence,
        places,
        lambda recipe: recipe.digest == manifest.recipe_digest,
        problems,
        assumed,
    )


def _first(
    evidence: Evidence,
    places: Sequence[tuple[str, Callable[[], T | None]]],
    fits: Callable[[T], bool],
    problems: list[str],
    assumed: list[str],
) -> T:
    """The first of several records of one thing that is there and the version's own."""
    for who, read in places:
        try:
            found = read()
        except (OSError, MergeflowError):
            found = None
        if found is None:
            assumed.append(f"{who} is gone: another record is taken")
        elif not fits(found):
            problems.append(f"{who} is not the one of this version")
        else:
            return found
    raise MergeflowError(
        "nothing is left that says how this version was made",
        where=evidence.address,
        details=[f"  {each}" for each in (*problems, *assumed)],
        mend="put the files of its run, or its checkpoint, back from a backup",
    )


def _parsed(content: bytes | None) -> Recipe | None:
    return parse_recipe(content.decode("utf-8", "replace")) if content else None


def _lock(
    evidence: Evidence,
    recipe: Recipe,
    manifest: CheckpointManifest,
    problems: list[str],
    assumed: list[str],
) -> Lock | None:
    noted = evidence.run.data.tags.get(TAG + "lock") if evidence.run else None
    content = evidence.file(LOCK)
    if content is None and noted is None:
        assumed.append("it has no lock: its sources are looked for where MLflow saw them last")
        return None
    lock = evidence.lock
    if content is None or lock is None:
        problems.append("the run's lock.json is gone, or cannot be read")
    elif sha256_of(content) != noted:
        problems.append("the run's lock.json was edited: the run noted another sha256 of it")
    else:
        departures = lock.departures(recipe, manifest)
        problems += departures
        return None if departures else lock
    return None


def _sources(
    evidence: Evidence, lock: Lock | None, recipe: Recipe, manifest: CheckpointManifest
) -> dict[str, Described]:
    digests = {item.reference: item.digest for item in manifest.inputs}
    locked = {each.reference: each for each in lock.sources} if lock else {}
    found = {}
    for reference in recipe.references():
        model = find_logged_model(evidence.registry, digests[reference])
        known = described_model(evidence.registry, model, digests[reference]) if model else None
        source = locked.get(reference)
        if source is None and known is not None:
            source = LockedSource.of(known.model_copy(update={"reference": reference}))
        if source is None:
            nowhere = LockedPlace(reference=reference, path="", digest=digests[reference])
            source = LockedSource(reference=reference, digest=digests[reference], places=(nowhere,))
        found[reference] = Described(source, known)
    return found


def _json(content: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
