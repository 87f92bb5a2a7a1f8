"""From the references of a recipe to checkpoints on this disk, in two steps.

*Locate* is cheap: paths, Hub commits and remote headers, enough to refuse a hopeless merge. *Fetch*
downloads what is missing and identifies every file by its digest.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from merge_core.checkpoint import open_checkpoint
from merge_core.compatibility import CompatibilityReport, raise_for_errors
from merge_core.digests import DigestMemo, digest_of
from merge_core.errors import CheckpointError
from merge_core.home import Home
from merge_core.preflight import CheckpointFacts, facts_of, preflight
from merge_core.progress import Progress
from merge_core.recipe import Recipe
from merge_core.records import Record, SourceCheckpoint
from merge_core.sources import describe_source, model_files
from tasks.hub import (
    HubListing,
    check_download,
    download,
    downloaded,
    is_offline,
    list_repository,
    remote_facts,
)
from tasks.references import HubReference, LocalReference, parse_reference


class Location(Record):
    """Where a checkpoint is: a directory, or a Hub repository at one commit."""

    reference: str
    """As the user wrote it."""
    directory: str | None = None
    revision: str | None = None
    """The Hub commit the files come from."""
    listing: HubListing | None = None
    """What there is to download, when it is on the Hub."""
    digest: str | None = None
    """The model digest that it must have, when a registry says so."""


class Preflight(Record):
    """Every checkpoint of a merge, located and found to fit together as far as headers tell."""

    locations: tuple[Location, ...]


def locate_all(
    references: Sequence[str], home: Home, beside: Path | None = None, tracking_uri: str = ""
) -> Preflight:
    """Find every checkpoint, and compare headers before anything is downloaded.

    Raises:
        CheckpointError: a reference leads nowhere, or to something that is refused.
        CompatibilityError: tensors on the Hub differ in name or shape from the first checkpoint's.
        HubUnreachableError, RegistryUnreachableError: a server did not answer.
    """
    locations = [locate(reference, home, beside, tracking_uri) for reference in references]
    if any(location.listing for location in locations):
        findings = preflight(None, [_facts(location) for location in locations])
        raise_for_errors(CompatibilityReport(base=None, rows=(), findings=findings, scanned=False))
    return Preflight(locations=tuple(locations))


def locate(
    reference: str, home: Home, beside: Path | None = None, tracking_uri: str = ""
) -> Location:
    """Find one checkpoint: see `tasks.references` for what a reference may be."""
    meaning = parse_reference(reference, beside, home)
    if isinstance(meaning, LocalReference):
        return Location(reference=reference, directory=str(meaning.directory))
    if isinstance(meaning, HubReference):
        if is_offline():
            snapshot = downloaded(meaning)
            return Location(reference=reference, directory=str(snapshot), revision=snapshot.name)
        listing = list_repository(meaning)
        return Location(reference=reference, revision=listing.commit, listing=listing)
    return _registered(reference, meaning.uri, home, tracking_uri)


def fetch(
    location: Location, memo: DigestMemo, progress: Progress | None = None
) -> SourceCheckpoint:
    """Download what is missing, check headers, and identify the checkpoint by its content.

    Raises:
        CheckpointError: damaged or refused files, or other content than a registry says.
        HubUnreachableError: the Hub stopped answering.
    """
    directory = (
        download(location.listing, progress) if location.listing else Path(location.directory or "")
    )
    source = describe_source(
        location.reference, directory, memo, revision=location.revision, progress=progress
    )
    if location.listing:
        check_download(location.listing, source)
    if location.digest not in (None, source.digest):
        raise CheckpointError(
            f"the files at {directory} are not the registered ones: their digest is"
            f" {source.short}, registered is {str(location.digest)[:12]}",
            where=location.reference,
            mend="merge and register again, or name another version",
        )
    return source


def fetch_all(
    references: Sequence[str],
    home: Home,
    beside: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, SourceCheckpoint]:
    """Locate and fetch every checkpoint, by reference: both steps at once, for plain commands."""
    memo = DigestMemo(home.digest_memo)
    locations = locate_all(references, home, beside).locations
    return {location.reference: fetch(location, memo, progress) for location in locations}


def base_and_models(
    recipe: Recipe, sources: Mapping[str, SourceCheckpoint]
) -> tuple[SourceCheckpoint | None, list[SourceCheckpoint]]:
    """The base, if the recipe has one, and everything else that it names, in its order."""
    names = [name for name in recipe.references() if name != recipe.base_model]
    base = sources[recipe.base_model] if recipe.base_model else None
    return base, [sources[name] for name in names]


def location_key(location: Location) -> str:
    """What the cached result of `fetch` depends on: the commit, or every file as it is on disk."""
    if location.listing:
        place = location.listing.model_dump(mode="json")
    else:
        directory = Path(location.directory or "")
        files = model_files(directory) if directory.is_dir() else []
        place = {"path": str(directory), "files": [_fingerprint(path) for path in files]}
    return digest_of({"reference": location.reference, "place": place, "digest": location.digest})


def changed_files(source: SourceCheckpoint, memo: DigestMemo) -> list[str]:
    """Names of the files that are missing or have other content than the record says."""
    return [
        file.name
        for file in source.files
        if not (path := source.directory / file.name).is_file() or memo.sha256(path) != file.sha256
    ]


def _registered(reference: str, uri: str, home: Home, tracking_uri: str) -> Location:
    from tasks.lineage import lineage
    from tasks.registry_client import default_tracking_uri

    root = lineage(uri, tracking_uri or default_tracking_uri(home)).root
    if root.path is None:
        raise CheckpointError("this version has no recorded place on disk", where=reference)
    return Location(
        reference=reference, directory=root.path, revision=root.revision, digest=root.digest
    )


def _facts(location: Location) -> CheckpointFacts:
    if location.listing:
        return remote_facts(location.reference, location.listing)
    return facts_of(location.reference, open_checkpoint(Path(location.directory or "")))


def _fingerprint(path: Path) -> list[str | int]:
    status = os.stat(path)  # noqa: PTH116 - follows links on purpose: Hub snapshots are links
    return [path.name, status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino]
