"""Which registered versions contain a checkpoint: as it is, or merged into them at any depth."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from typing import TYPE_CHECKING

from merge_core.errors import MergeflowError
from merge_core.records import Record
from tasks.lineage.recorded import Recorded, is_deleted
from tasks.lineage.trace import inputs_of_run
from tasks.registry.addresses import digest_of_version, find_version, is_address
from tasks.registry.client import TAG, Registry, open_registry
from tasks.registry.pages import every

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

_DIGEST = re.compile(r"[0-9a-f]{12,64}")
_PAGE = 1000
_PAGE_OF_MODELS = 500
_ASKED_ONE_BY_ONE = 3


class ContainingVersion(Record):
    """One version that contains the checkpoint."""

    model_uri: str
    aliases: tuple[str, ...]
    digest: str
    verdict: str | None = None
    merges_between: int
    """0: the version is the checkpoint itself."""


class Containing(Record):
    """Where a checkpoint is served, or was registered."""

    digest: str
    tracking_uri: str
    versions: tuple[ContainingVersion, ...]
    unregistered: int
    """Merges that contain it, and are no version of any model."""


def versions_that_contain(wanted: str, tracking_uri: str) -> Containing:
    """Every registered version that a checkpoint is in.

    Args:
        wanted: the checkpoint's digest, at least 12 digits of it; or the address of a version.

    Raises:
        MergeflowError: it is neither, or the digits are those of no or of several checkpoints.
    """
    with open_registry(tracking_uri) as registry:
        if is_address(wanted):
            wanted = digest_of_version(find_version(registry, wanted))
        elif not _DIGEST.fullmatch(wanted):
            raise MergeflowError(
                "this is no digest of a checkpoint, and no address of a version",
                where=wanted,
                mend="write a digest, at least 12 digits of it, or models:/NAME/3",
            )
        merges = Recorded(registry).merges()
        made_of: dict[str, list[str]] = defaultdict(list)
        for digest, run in merges.items():
            for item in [] if is_deleted(run) else inputs_of_run(run):
                made_of[item.digest].append(digest)
        versions = list(every(registry.client.search_model_versions, max_results=_PAGE))
        known = {*made_of, *merges, *(version.tags.get(TAG + "digest", "") for version in versions)}
        digest = _whole(wanted, known)
        between = _between(digest, made_of)
        holding = [each for each in versions if each.tags.get(TAG + "digest") in between]
        aliases = _aliases(registry, {version.name for version in holding})
        found = [_containing(version, aliases, between) for version in holding]
        registered = {version.digest for version in found}
        return Containing(
            digest=digest,
            tracking_uri=registry.address,
            versions=tuple(found),
            unregistered=len(between.keys() - registered - {digest}),
        )


def _between(digest: str, made_of: dict[str, list[str]]) -> dict[str, int]:
    """How many merges lie between a checkpoint and each that contains it, by the shortest way."""
    found, pending = {digest: 0}, deque([digest])
    while pending:
        current = pending.popleft()
        for result in made_of.get(current, ()):
            if result not in found:
                found[result] = found[current] + 1
                pending.append(result)
    return found


def _whole(wanted: str, known: set[str]) -> str:
    matching = sorted(digest for digest in known if digest.startswith(wanted))
    if len(matching) == 1:
        return matching[0]
    if not matching:
        raise MergeflowError(
            "no merge and no version that is recorded here knows this checkpoint",
            where=wanted,
            mend="see `mergeflow lineage` for the digests that are known, or name another MLflow"
            " with --tracking-uri",
        )
    raise MergeflowError(
        f"{len(matching)} checkpoints have a digest that begins so",
        where=wanted,
        details=matching[:10],
        mend="write more digits",
    )


def _aliases(registry: Registry, names: set[str]) -> dict[tuple[str, str], list[str]]:
    """Aliases by name and version: a search for versions does not bring them along."""
    client = registry.client
    if len(names) <= _ASKED_ONE_BY_ONE:
        models = [client.get_registered_model(name) for name in sorted(names)]
    else:
        models = list(every(client.search_registered_models, max_results=_PAGE_OF_MODELS))
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for model in models:
        for alias, version in model.aliases.items():
            found[model.name, str(version)].append(alias)
    return found


def _containing(
    version: ModelVersion, aliases: dict[tuple[str, str], list[str]], between: dict[str, int]
) -> ContainingVersion:
    digest = version.tags[TAG + "digest"]
    return ContainingVersion(
        model_uri=f"models:/{version.name}/{version.version}",
        aliases=tuple(sorted(aliases.get((version.name, str(version.version)), ()))),
        digest=digest,
        verdict=version.tags.get(TAG + "verdict"),
        merges_between=between[digest],
    )
