"""The key of a located checkpoint in the cache, and whether a cached result fits it."""

from __future__ import annotations

import os
from pathlib import Path

from merge_core.checkpoints.sources import has_its_own_digest, model_files
from merge_core.errors import CheckpointError
from merge_core.files.digests import digest_of, model_digest
from merge_core.records import SourceAdapter, SourceCheckpoint
from tasks.sources.hub import check_download
from tasks.sources.locate import Location


def location_key(location: Location) -> str:
    """The key of the cached result of `fetch`: the commit, or every file as it is on disk."""
    if location.listing:
        place = location.listing.model_dump(mode="json", exclude={"weights_beside"})
    else:
        directory = Path(location.directory or "")
        files = model_files(directory) if directory.is_dir() else []
        place = {"path": str(directory), "files": [_fingerprint(path) for path in files]}
    key: dict[str, object] = {
        "reference": location.reference,
        "place": place,
        "digest": location.digest,
    }
    if location.adapter:
        key["adapter"] = location_key(location.adapter)
    return digest_of(key)


def is_of_location(source: SourceCheckpoint, location: Location) -> bool:
    """Whether a record can be what `fetch` gives of a location: its place, its commit, the digests
    that a registry or the Hub states. The files themselves are for `departures`."""
    if source.adapter is None or location.adapter is None:
        same_adapter = source.adapter is None and location.adapter is None
    else:
        same_adapter = _is_at(source.adapter, location.adapter)
    return (
        same_adapter
        and _is_at(source, location)
        and location.digest in (None, model_digest(source.files))
        and has_its_own_digest(source)
    )


def _is_at(part: SourceCheckpoint | SourceAdapter, location: Location) -> bool:
    if (part.reference, part.revision) != (location.reference, location.revision):
        return False
    if location.listing is None:
        return part.path == str(Path(location.directory or "").absolute())
    try:
        check_download(location.listing, part)
    except CheckpointError:
        return False
    return True


def _fingerprint(path: Path) -> list[str | int]:
    status = os.stat(path)  # noqa: PTH116 - follows links on purpose: Hub snapshots are links
    times = [status.st_mtime_ns, status.st_ctime_ns]
    return [path.name, status.st_size, *times, status.st_dev, status.st_ino]
