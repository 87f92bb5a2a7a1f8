"""Make a registered merge again in a directory of its own, and compare every byte."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from merge_core.files.private import make_private_directory
from merge_core.homes.home import Home
from merge_core.operations.execute import refuse_existing
from merge_core.operations.merge import merge
from merge_core.progress import Progress
from merge_core.recipes.loading import parse_recipe
from merge_core.recipes.recipe import Recipe
from merge_core.records import CheckpointManifest, SourceCheckpoint
from merge_core.runtime.compute import Compute
from merge_core.runtime.threads import default_threads
from tasks.audit.evidence import Evidence
from tasks.processes.model import resolved_device_kind
from tasks.registry.addresses import find_version
from tasks.registry.client import open_registry
from tasks.registry.environment import environment
from tasks.registry.lock import LockedSource
from tasks.registry.runs import flatten
from tasks.reproduction.measured import measured_again
from tasks.reproduction.places import Places
from tasks.reproduction.recorded import RecordedMerge, recorded_merge
from tasks.reproduction.report import FileDifference, FoundSource, MissingSource, Reproduction
from tasks.reproduction.sources import Finder, NotFoundError

_OF_THE_PLAN = ("engine", "plan_digest", "dtype", "parameters")
"""Of a manifest: what another version of mergeflow, or another shard size, gives otherwise."""


def reproduce(
    home: Home,
    model_uri: str,
    tracking_uri: str,
    *,
    out: Path | None = None,
    look_in: Sequence[Path] = (),
    compute: Compute = Compute(),
    shard_bytes: int | None = None,
    progress: Progress | None = None,
) -> Reproduction:
    """Find the sources of a version by digest, merge them by its record, compare.

    Args:
        out: the directory to make and keep; by default one that is removed again.
        look_in: directories below which to look for sources as well.
        shard_bytes: for a version that was registered before locks were kept.

    Raises:
        MergeflowError: no such version, or one that no merge of mergeflow's made.
        OutputError: `out` exists, or there is not enough room.
        StepError: MLflow refused, or the merge failed.
    """
    if out is not None:
        refuse_existing(out)
    with tempfile.TemporaryDirectory(prefix="mergeflow-") as scratch:
        with open_registry(tracking_uri) as registry:
            version = find_version(registry, model_uri)
            evidence = Evidence(registry, home, version, Path(scratch), progress)
            recorded = recorded_merge(evidence, shard_bytes)
        beside = Path(recorded.lock.beside) if recorded.lock and recorded.lock.beside else None
        finder = Finder(Places(home, beside, look_in), progress)
        sources, missing = _sources(recorded, finder)
        if missing:
            return _report(recorded, sources, compute, missing=missing)
        make_private_directory(home.scratch)
        with tempfile.TemporaryDirectory(prefix="reproduce-", dir=home.scratch) as working:
            target = out or Path(working) / "checkpoint"
            rebuilt = _Rebuilding(home, recorded, Path(working), compute, progress)
            return rebuilt.report(sources, target, kept=out is not None)


class _Rebuilding(NamedTuple):
    """A merge that is made again."""

    home: Home
    recorded: RecordedMerge
    working: Path
    compute: Compute
    progress: Progress | None

    def report(
        self, found: Mapping[str, SourceCheckpoint], target: Path, *, kept: bool
    ) -> Reproduction:
        """Merge into a directory, and compare."""
        recorded, compute = self.recorded, self.compute
        sources = {reference: self._as_merged(reference, each) for reference, each in found.items()}
        measured = measured_again(self.home, recorded, sources, compute, self.progress)
        if measured.missing:
            return _report(recorded, found, compute, missing=measured.missing)
        manifest = self._merge(recorded.recipe, sources, target, measured.by_reference)
        return _report(
            recorded,
            found,
            compute,
            rebuilt=manifest,
            told=measured.told,
            kept=str(target) if kept else None,
        )

    def _as_merged(self, reference: str, source: SourceCheckpoint) -> SourceCheckpoint:
        """A source as it was merged: a first checkpoint with an adapter is written out first."""
        wanted = self.recorded.sources[reference].locked
        if source.digest == wanted.digest:
            return source
        recipe = parse_recipe({"merge_method": "passthrough", "models": [{"model": reference}]})
        written = self._merge(recipe, {reference: source}, self.working / wanted.digest, {})
        return written.as_source().model_copy(update={"reference": reference})

    def _merge(
        self,
        recipe: Recipe,
        sources: Mapping[str, SourceCheckpoint],
        target: Path,
        measured: Mapping[str, SourceCheckpoint],
    ) -> CheckpointManifest:
        return merge(
            recipe,
            sources,
            home=self.home,
            out=target,
            compute=self.compute,
            shard_bytes=self.recorded.shard_bytes,
            calibration=measured,
            check=False,
            progress=self.progress,
        )


def _sources(
    recorded: RecordedMerge, finder: Finder
) -> tuple[dict[str, SourceCheckpoint], tuple[MissingSource, ...]]:
    found: dict[str, SourceCheckpoint] = {}
    missing: list[MissingSource] = []
    for reference, wanted in recorded.sources.items():
        try:
            found[reference] = finder.source(wanted)
        except NotFoundError as error:
            missing.append(error.missing)
    return found, tuple(missing)


def _report(
    recorded: RecordedMerge,
    found: Mapping[str, SourceCheckpoint],
    compute: Compute,
    *,
    missing: Sequence[MissingSource] = (),
    rebuilt: CheckpointManifest | None = None,
    told: Sequence[str] = (),
    kept: str | None = None,
) -> Reproduction:
    manifest = recorded.manifest
    return Reproduction(
        model_uri=recorded.uri,
        digest=manifest.digest,
        object_id=manifest.object_id,
        rebuilt=rebuilt.object_id if rebuilt else None,
        files=len(manifest.files),
        differences=_differences(manifest, rebuilt) if rebuilt else (),
        sources=tuple(
            _as_found(recorded.sources[reference].locked, source)
            for reference, source in found.items()
        ),
        missing=tuple(missing),
        problems=tuple(recorded.problems),
        assumed=(*recorded.assumed, *told),
        otherwise=tuple(_otherwise(recorded, rebuilt, compute)),
        kept=kept,
    )


def _as_found(locked: LockedSource, source: SourceCheckpoint) -> FoundSource:
    paths = [source.path, *([source.adapter.path] if source.adapter else [])]
    were = {place.path for place in locked.places}
    return FoundSource(
        reference=locked.reference,
        digest=locked.digest,
        paths=tuple(paths),
        moved=not set(paths) <= were,
    )


def _differences(
    manifest: CheckpointManifest, rebuilt: CheckpointManifest
) -> tuple[FileDifference, ...]:
    before = {file.name: file.sha256 for file in manifest.files}
    now = {file.name: file.sha256 for file in rebuilt.files}
    return tuple(
        FileDifference(name=name, recorded=before.get(name), rebuilt=now.get(name))
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    )


def _otherwise(
    recorded: RecordedMerge, rebuilt: CheckpointManifest | None, compute: Compute
) -> Iterator[str]:
    """One sentence for each thing that is not as it was when the merge was registered."""
    before, now = flatten("", recorded.environment), flatten("", environment())
    lock = recorded.lock
    if lock is not None:
        before |= {"device": lock.device, "threads": str(lock.threads)}
        now |= {
            "device": resolved_device_kind(compute.device),
            "threads": str(compute.threads or default_threads()),
        }
    if rebuilt is not None:
        for field in _OF_THE_PLAN:
            before[field] = str(getattr(recorded.manifest, field))
            now[field] = str(getattr(rebuilt, field))
    for name, was in before.items():
        if now.get(name, was) != was:
            yield f"{name.removeprefix('.')}: {was} then, {now[name]} now"
