"""Records of earlier averages: a small file for each, found again by content.

A record names the checkpoints that an average saw and the settings it was made by. It counts while
what it says still holds, so losing it costs a run whose steps are all found in their caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from merge_core.errors import MergeflowError, StepError
from merge_core.files.digests import digest_of
from merge_core.files.own_files import NotOursError, read_own
from merge_core.files.private import write_private
from merge_core.homes.home import Home
from merge_core.operations.trajectory.records import RunCheckpoint
from merge_core.records import CheckpointManifest, Record
from tasks.registry.client import open_registry
from tasks.registry.versions import version_of_checkpoint

_MAX_BYTES = 16 << 20
"""A record of a thousand checkpoints takes one."""


class RegisteredAt(Record):
    """Where an average is registered."""

    tracking_uri: str
    """Without credentials; `embedded` and `stack` are the home's own (tasks.registry.memory)."""
    model: str
    version: str


class AverageRecord(Record):
    """One average, concluded: judged, and registered where that was asked for."""

    name: str
    """Of the averaging configuration."""
    run: str
    """The training run: a directory or a Hub repository."""
    settings: str
    """Digest of everything else that decides the result and what becomes of it."""
    seen: tuple[RunCheckpoint, ...]
    """The checkpoints that it is an average of, or that were tried for it, the oldest first."""
    average: CheckpointManifest
    state: Literal["Promoted", "FellBack"]
    registered: RegisteredAt | None = None

    def covers(self, chosen: Sequence[RunCheckpoint]) -> bool:
        """Whether it saw all these checkpoints, and none that is newer."""
        known = {each.identity for each in self.seen}
        return (
            all(each.identity in known for each in chosen)
            and self.seen[-1].identity == chosen[-1].identity
        )


def averages_of(home: Home, name: str) -> list[AverageRecord]:
    """The averages of one configuration that are on record, the latest first."""
    directory = home.averages / name
    paths = sorted(directory.glob("*.json"), key=_age)
    return [record for path in paths if (record := _read(path)) is not None]


def keep_average(home: Home, record: AverageRecord) -> None:
    """Put an average on record; the same again takes the place of the earlier record."""
    directory = home.averages / record.name
    write_private(directory / _file_name(record), record.model_dump_json(indent=1) + "\n")


def forget_averages(home: Home, name: str, keep: int) -> None:
    """Remove all but the latest records of a configuration."""
    for path in sorted((home.averages / name).glob("*.json"), key=_age)[keep:]:
        path.unlink(missing_ok=True)


def is_registered(record: AverageRecord, tracking_uri: str) -> bool:
    """Whether the registry still has the average that a record says was registered.

    Raises:
        RegistryUnreachableError: the MLflow server did not answer.
        StepError: MLflow refused.
    """
    if record.registered is None:
        return True
    try:
        with open_registry(tracking_uri) as registry:
            name, average = record.registered.model, record.average
            version = version_of_checkpoint(registry, name, average.digest, average.object_id)
            return version is not None
    except StepError:
        raise
    except MergeflowError:
        return False  # there is no registry any more


def _file_name(record: AverageRecord) -> str:
    seen = [[each.step, each.identity] for each in record.seen]
    return f"{digest_of([record.run, record.settings, seen])}.json"


def _age(path: Path) -> tuple[float, str]:
    return -path.lstat().st_mtime, path.name


def _read(path: Path) -> AverageRecord | None:
    """A record; None for one that another version of mergeflow wrote, that is damaged, or that was
    not written here: a record's file is named by the average's key."""
    try:
        record = AverageRecord.model_validate_json(read_own(path, _MAX_BYTES))
    except (OSError, NotOursError, ValidationError):
        return None
    own = record.name == path.parent.name and path.name == _file_name(record)
    return record if own and record.seen else None
