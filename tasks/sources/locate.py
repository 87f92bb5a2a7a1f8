"""From the references of a recipe to checkpoints on this disk, in two steps.

*Locate* is cheap: paths, Hub commits and remote headers, enough to refuse a hopeless merge. *Fetch*
downloads missing files and identifies every file by its digest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from merge_core.checkpoints.checkpoint import Checkpoint, open_checkpoint
from merge_core.checkpoints.sources import (
    describe_adapter,
    describe_source,
    former_digest,
    with_adapter,
)
from merge_core.errors import CheckpointError
from merge_core.files.digests import DigestMemo
from merge_core.findings import some
from merge_core.homes.home import Home
from merge_core.progress import Progress, SharedProgress
from merge_core.records import Record, SourceAdapter, SourceCheckpoint
from merge_core.runtime.threads import all_at_once
from merge_core.store.objects import object_problems, stored_place
from merge_core.verification.headers import CheckpointFacts, facts_of, preflight
from merge_core.verification.tied_copies import presumed_copies
from merge_core.verification.tolerance import STRICT, Tolerance
from merge_core.verification.verify import CompatibilityReport, raise_for_errors
from tasks.hub_answers import HubAwayError, NoRepositoryError, is_offline, require_connection
from tasks.sources.hub import (
    HubListing,
    check_download,
    download,
    downloaded,
    list_repository,
    remote_facts,
)
from tasks.sources.hub_blobs import check_blobs
from tasks.sources.references import (
    AdaptedReference,
    HubReference,
    LocalReference,
    PlainReference,
    parse_reference,
)

_IDENTIFIED_AT_ONCE = 4
"""Checkpoints on this disk: each takes the threads of a few files."""


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
    version: str | None = None
    """`models:/NAME/VERSION` that a reference to a registered model led to."""
    adapter: Location | None = None
    """Where the LoRA adapter is that is applied to it."""

    @property
    def is_remote(self) -> bool:
        """Whether something has to be downloaded first."""
        return self.listing is not None or (self.adapter is not None and self.adapter.is_remote)


class Preflight(Record):
    """Every checkpoint of a merge, located and found to fit together as far as headers tell."""

    locations: tuple[Location, ...]

    @property
    def remote(self) -> list[str]:
        """References of the checkpoints that have to be downloaded first."""
        return [location.reference for location in self.locations if location.is_remote]

    def undigested(self) -> dict[str, SourceCheckpoint]:
        """The checkpoints as a plan needs them: without digests, which take every byte."""
        return {location.reference: _undigested(location) for location in self.locations}

    def identified(
        self, identify: Callable[[Location, Progress], SourceCheckpoint], progress: Progress | None
    ) -> dict[str, SourceCheckpoint]:
        """The checkpoints by reference, as `identify` finds each.

        Checkpoints on this disk are identified several at a time: one thread hashes a file, and
        many a model is one file. The others are downloaded one by one, with several connections
        each.
        """
        shared = SharedProgress(progress)
        here = [location for location in self.locations if not location.is_remote]

        def one(location: Location) -> SourceCheckpoint:
            return identify(location, shared)

        found = all_at_once(one, here, _IDENTIFIED_AT_ONCE, shared.stop)
        found += [one(location) for location in self.locations if location.is_remote]
        by_reference = {source.reference: source for source in found}
        return {location.reference: by_reference[location.reference] for location in self.locations}


def locate_all(
    references: Sequence[str],
    home: Home,
    beside: Path | None = None,
    tracking_uri: str = "",
    *,
    tolerance: Tolerance = STRICT,
) -> Preflight:
    """Find every checkpoint, and compare headers before anything is downloaded.

    Args:
        tolerance: the differences that are allowed (`Tolerance.of(recipe)`).

    Raises:
        CheckpointError: a reference leads nowhere, or to something that is refused.
        CompatibilityError: tensors on the Hub differ in name or shape from the first checkpoint's.
        HubUnreachableError, RegistryUnreachableError: a server did not answer.
    """
    locations = [locate(reference, home, beside, tracking_uri) for reference in references]
    if any(location.listing for location in locations):
        facts = _without_presumed_copies([_facts(location) for location in locations])
        findings = preflight(None, facts, tolerance=tolerance)
        raise_for_errors(CompatibilityReport(base=None, rows=(), findings=findings, scanned=False))
    return Preflight(locations=tuple(locations))


def locate(
    reference: str, home: Home, beside: Path | None = None, tracking_uri: str = ""
) -> Location:
    """Find one checkpoint: see `tasks.sources.references` for what a reference may be."""
    meaning = parse_reference(reference, beside, home)
    if not isinstance(meaning, AdaptedReference):
        return _locate(reference, meaning, home, tracking_uri)
    base = _locate(reference, meaning.base, home, tracking_uri)
    adapter = _locate(meaning.adapter_text, meaning.adapter, home, tracking_uri, is_adapter=True)
    return base.model_copy(update={"adapter": adapter})


def _locate(
    reference: str,
    meaning: PlainReference,
    home: Home,
    tracking_uri: str,
    *,
    is_adapter: bool = False,
) -> Location:
    if isinstance(meaning, LocalReference):
        return Location(reference=reference, directory=str(meaning.directory))
    if isinstance(meaning, HubReference):
        if is_offline():
            snapshot = downloaded(meaning)
            return Location(reference=reference, directory=str(snapshot), revision=snapshot.name)
        listing = _listed(meaning, is_adapter)
        return Location(reference=reference, revision=listing.commit, listing=listing)
    return _registered(reference, meaning.uri, home, tracking_uri)


def _listed(reference: HubReference, is_adapter: bool) -> HubListing:
    """The files of a repository. Where the reference may mean a directory, the error names it;
    then there is no reason to wait and try again."""
    try:
        require_connection(reference.repository)
        return list_repository(reference, is_adapter=is_adapter)
    except (HubAwayError, NoRepositoryError) as error:
        if reference.near is None:
            raise
        raise CheckpointError(
            error.what,
            where=error.where,
            mend=f"did you mean {reference.near}? Otherwise: {error.mend}",
        ) from None


def fetch(
    location: Location, memo: DigestMemo, progress: Progress | None = None
) -> SourceCheckpoint:
    """Download missing files, check headers, and identify the checkpoint by its content.

    Raises:
        CheckpointError: damaged or refused files, or other content than a registry says or than
            a store's directory is named after.
        HubUnreachableError: the Hub stopped answering.
    """
    directory = _directory(location, progress)
    _refuse_what_is_not_stored(location, directory, memo, progress)
    source = describe_source(
        location.reference, directory, memo, revision=location.revision, progress=progress
    )
    if location.listing:
        check_download(location.listing, source)
    check_blobs(source)
    known = location.digest
    if known not in (None, source.digest) and known != former_digest(source, memo):
        raise CheckpointError(
            f"the files at {directory} are not the registered ones: their digest is"
            f" {source.short}, registered is {str(known)[:12]}",
            where=location.reference,
            mend="merge and register again, or name another version",
        )
    if location.adapter:
        adapter = fetch_adapter(location.adapter, memo, progress)
        return with_adapter(location.reference, source, adapter)
    return source


def fetch_adapter(
    location: Location, memo: DigestMemo, progress: Progress | None = None
) -> SourceAdapter:
    """Download missing files of a LoRA adapter, check it, and identify it by its content.

    Raises:
        CheckpointError: no adapter, a kind that is refused, or damaged files.
        HubUnreachableError: the Hub stopped answering.
    """
    adapter = describe_adapter(
        location.reference,
        _directory(location, progress),
        memo,
        revision=location.revision,
        progress=progress,
    )
    if location.listing:
        check_download(location.listing, adapter)
    check_blobs(adapter)
    return adapter


def _undigested(location: Location) -> SourceCheckpoint:
    adapter = location.adapter and SourceAdapter(
        reference=location.adapter.reference,
        path=str(location.adapter.directory),
        digest="",
        files=(),
    )
    return SourceCheckpoint(
        reference=location.reference,
        path=str(location.directory),
        digest="",
        files=(),
        adapter=adapter,
    )


def fetch_all(
    references: Sequence[str],
    home: Home,
    beside: Path | None = None,
    progress: Progress | None = None,
    *,
    tolerance: Tolerance = STRICT,
) -> dict[str, SourceCheckpoint]:
    """Locate and fetch every checkpoint, by reference: both steps at once, for plain commands."""
    preflight = locate_all(references, home, beside, tolerance=tolerance)
    memo = DigestMemo(home.digest_memo)
    return preflight.identified(lambda location, shared: fetch(location, memo, shared), progress)


def fetch_adapters(
    references: Sequence[str],
    home: Home,
    beside: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, SourceAdapter]:
    """Locate and fetch LoRA adapters, by reference: directories or Hub repositories.

    Raises:
        CheckpointError: a reference leads nowhere, or not to an adapter.
        HubUnreachableError: the Hub did not answer.
    """
    memo = DigestMemo(home.digest_memo)
    found = {}
    for reference in references:
        meaning = parse_reference(reference, beside, home)
        if not isinstance(meaning, LocalReference | HubReference):
            raise CheckpointError(
                "this is a checkpoint, and adapters are merged here",
                where=reference,
                mend="name the adapter alone, without its base, as a directory or Hub repository",
            )
        location = _locate(reference, meaning, home, "", is_adapter=True)
        found[reference] = fetch_adapter(location, memo, progress)
    return found


def local_checkpoint(reference: str, home: Home, beside: Path | None = None) -> Checkpoint | None:
    """The headers of a checkpoint that is a directory here; None for one that is elsewhere.

    Raises:
        CheckpointError: the reference leads nowhere, or to a damaged checkpoint.
    """
    meaning = parse_reference(reference, beside, home)
    if isinstance(meaning, LocalReference):
        return open_checkpoint(meaning.directory)
    return None


def _directory(location: Location, progress: Progress | None) -> Path:
    """Where the files are, downloaded first where they are on the Hub."""
    if location.listing:
        return download(location.listing, progress)
    return Path(location.directory or "")


def _refuse_what_is_not_stored(
    location: Location, directory: Path, memo: DigestMemo, progress: Progress | None
) -> None:
    """A checkpoint in a store is the one that its place is named after, or none."""
    place = stored_place(directory)
    if place is None or not directory.is_dir():
        return
    problems = object_problems(place, memo, progress=progress)
    if problems:
        raise CheckpointError(
            f"the object {place.name} in the store has changed: {some(problems)}",
            where=location.reference,
            mend="run the pipeline that made it again: it is set aside, and merged again",
        )


def _registered(reference: str, uri: str, home: Home, tracking_uri: str) -> Location:
    from tasks.registry.addresses import place_of_version
    from tasks.registry.client import default_tracking_uri
    from tasks.registry.memory import note_store_of

    address = tracking_uri or default_tracking_uri(home)
    root = place_of_version(uri, address)
    if root.path is None:
        raise CheckpointError("this version has no recorded place on disk", where=reference)
    note_store_of(root.path, address)
    return Location(
        reference=reference,
        directory=root.path,
        revision=root.revision,
        digest=root.digest,
        version=root.address,
    )


def _facts(location: Location) -> CheckpointFacts:
    if location.listing:
        return remote_facts(location.reference, location.listing)
    return facts_of(location.reference, open_checkpoint(Path(location.directory or "")))


def _without_presumed_copies(facts: Sequence[CheckpointFacts]) -> list[CheckpointFacts]:
    """Facts that do not differ in copies of tied embeddings, as far as configs tell: whether they
    are equal is looked at when the weights are here."""
    presumed = [presumed_copies(each.headers, each.config) for each in facts]
    copies = frozenset[str]().union(*presumed)
    return [replace(each, copies=copies) for each in facts]
