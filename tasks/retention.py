"""What of the store is still needed, and the removal of the rest.

Needed is what the registry refers to: every registered version, with an alias or without. Then the
latest averages of each configuration, and what is so young that a run may be about to register it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal

from prefect import task
from prefect.cache_policies import NO_CACHE

from merge_core.errors import CheckpointError, MergeflowError, OutputError, StepError
from merge_core.home import Home
from merge_core.manifest import read_manifest
from merge_core.read_only import make_removable
from merge_core.records import Record
from tasks.averages import averages_of, forget_averages
from tasks.registry_client import TAG, Registry, RegistryUnreachableError, open_registry
from tasks.registry_models import find_logged_model
from tasks.retries import only_on

_PAGE = 200


class StoredItem(Record):
    """Something below the store that takes room."""

    kind: Literal["checkpoint", "unfinished merge"]
    name: str
    """Name of its directory: object id or plan digest."""
    path: str
    bytes: int
    age_seconds: float
    kept: str | None
    """Why it is kept; None when it can be removed."""


class RemovedVersion(Record):
    """A registered version that retention removed."""

    model: str
    version: str
    object_id: str


def survey(
    home: Home, tracking_uri: str | None, *, keep: int, older_than_seconds: float
) -> list[StoredItem]:
    """Everything in the store, the largest first, with why it is kept.

    Args:
        tracking_uri: the registry; None says that nothing of this store is registered anywhere.
        keep: how many averages of each configuration are kept although nothing refers to them.
        older_than_seconds: younger things are kept.

    Raises:
        MergeflowError: there is no registry at this address: what it refers to is not known.
        RegistryUnreachableError: the MLflow server did not answer.
    """
    referred, address = _referred_to(tracking_uri) if tracking_uri else ({}, "")
    latest = _latest_averages(home, keep, address)
    items = []
    for path in _directories(home.objects):
        labels = (path.name, str(path), _digest(path))
        whys = [found[label] for found in (referred, latest) for label in labels if label in found]
        why = whys[0] if whys else None
        items.append(_item("checkpoint", path, why, older_than_seconds))
    for path in _directories(home.staging):
        why = "a merge is working on it" if _is_locked(path) else None
        items.append(_item("unfinished merge", path, why, older_than_seconds))
    return sorted(items, key=lambda item: (-item.bytes, item.name))


def remove(home: Home, items: Sequence[StoredItem]) -> int:
    """Remove what `survey` found to be without use; the bytes that this freed.

    A directory is renamed first, so that one half removed never looks like a checkpoint.

    Raises:
        OutputError: the store cannot be written.
    """
    freed = 0
    for item in items:
        if item.kept is not None:
            continue
        path = Path(item.path)
        doomed = path.with_name(f".removed-{item.name}")
        try:
            make_removable(path)
            path.rename(doomed)
            shutil.rmtree(doomed)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise OutputError(f"cannot be removed: {error.strerror}", where=str(path)) from error
        freed += item.bytes
    _forget_plans(home)
    return freed


def retire_versions(
    registry: Registry, model: str, pipeline: str, keep: int
) -> list[RemovedVersion]:
    """Take a pipeline's older versions out of the registry; their runs in MLflow stay.

    Kept are the `keep` latest of those without an alias, and every one with an alias.
    """
    client = registry.client
    aliased = {str(version) for version in client.get_registered_model(model).aliases.values()}
    found = client.search_model_versions(
        f"name = '{model}' and tags.`{TAG}role` = 'merged' and tags.`{TAG}pipeline` = '{pipeline}'",
        max_results=10_000,
    )
    plain = sorted(
        (version for version in found if str(version.version) not in aliased),
        key=lambda version: int(version.version),
        reverse=True,
    )
    removed = []
    for version in plain[keep:]:
        number, tags = str(version.version), version.tags
        _note_removal(registry, tags.get(TAG + "digest", ""), model, number)
        client.delete_model_version(model, number)
        object_id = tags.get(TAG + "object_id", "")
        removed.append(RemovedVersion(model=model, version=number, object_id=object_id))
    return removed


def retain(
    home: Home,
    tracking_uri: str,
    *,
    name: str,
    model: str | None,
    keep: int,
    discarded: Collection[str] = (),
) -> list[StoredItem]:
    """Keep the latest averages of a configuration; what was removed of the store.

    Args:
        model: the registered model, if there is one.
        keep: how many averages without an alias are kept.
        discarded: object ids that the run made on its way, and that nothing needs.
    """
    doomed = set(discarded)
    if model is not None:
        with open_registry(tracking_uri, writing=True) as registry:
            doomed |= {each.object_id for each in retire_versions(registry, model, name, keep)}
    else:
        doomed |= {each.average.object_id for each in averages_of(home, name)[keep:]}
    forget_averages(home, name, keep)
    if not doomed:
        return []
    known = tracking_uri if _has_registry(tracking_uri) else None
    items = survey(home, known, keep=keep, older_than_seconds=0.0)
    gone = [item for item in items if item.name in doomed and item.kept is None]
    remove(home, gone)
    return gone


retain_task = task(
    name="retain",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=[5, 30],
    retry_condition_fn=only_on(RegistryUnreachableError),
)(retain)
"""`retain` as a step: never cached, safe to repeat."""


def _referred_to(tracking_uri: str) -> tuple[dict[str, str], str]:
    """Object ids, paths and digests of every registered version, each with the version's address;
    and the registry's own address."""
    found: dict[str, str] = {}
    token = None
    with open_registry(tracking_uri) as registry:
        while True:
            page = registry.client.search_model_versions(max_results=_PAGE, page_token=token)
            for version in page:
                reason = f"models:/{version.name}/{version.version}"
                for key in ("object_id", "path", "digest"):
                    if label := version.tags.get(TAG + key):
                        found.setdefault(label, reason)
            token = page.token
            if not token:
                return found, registry.address


def _latest_averages(home: Home, keep: int, address: str) -> dict[str, str]:
    """Object ids of averages that are kept for their own sake, with the reason."""
    found: dict[str, str] = {}
    for directory in _directories(home.averages):
        for number, record in enumerate(averages_of(home, directory.name)):
            place = record.registered
            if place is not None and place.tracking_uri != address:
                found.setdefault(record.average.object_id, f"registered at {place.tracking_uri}")
            elif number < keep:
                found.setdefault(
                    record.average.object_id, f"one of the last {keep} averages of {record.name}"
                )
    return found


def _item(
    kind: Literal["checkpoint", "unfinished merge"], path: Path, why: str | None, oldest: float
) -> StoredItem:
    entries = [path, *path.rglob("*")]
    statuses = [status for entry in entries if (status := _status(entry)) is not None]
    age = time.time() - max((status.st_mtime for status in statuses), default=0.0)
    if why is None and age < oldest:
        why = "young: a run may be about to register it"
    size = sum(status.st_blocks * 512 for status in statuses)
    return StoredItem(
        kind=kind, name=path.name, path=str(path), bytes=size, age_seconds=age, kept=why
    )


def _status(path: Path) -> os.stat_result | None:
    with contextlib.suppress(FileNotFoundError):
        return path.lstat()
    return None


def _digest(path: Path) -> str:
    """The model digest of a stored checkpoint; nothing for one without a usable manifest."""
    with contextlib.suppress(CheckpointError):
        return read_manifest(path).digest
    return ""


def _directories(place: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from sorted(path for path in place.iterdir() if path.is_dir())


def _is_locked(staging: Path) -> bool:
    """Whether a merge holds the lock of its staging directory."""
    try:
        with (staging / "lock").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _forget_plans(home: Home) -> None:
    """Remove the pointers from plans to checkpoints that are gone."""
    plans = home.path / "store" / "plans"
    for pointer in plans.glob("*") if plans.is_dir() else ():
        with contextlib.suppress(OSError):
            if not (home.objects / pointer.read_text().strip()).is_dir():
                pointer.unlink()


def _has_registry(tracking_uri: str) -> bool:
    try:
        with open_registry(tracking_uri):
            return True
    except StepError:
        raise
    except MergeflowError:
        return False


def _note_removal(registry: Registry, digest: str, model: str, version: str) -> None:
    """Let the LoggedModel of a removed version say so, and no longer point to it."""
    logged = find_logged_model(registry, digest)
    if logged is None:
        return
    noted = json.loads(logged.tags.get("mlflow.modelVersions", "[]"))
    left = [each for each in noted if (each["name"], str(each["version"])) != (model, version)]
    tags = {"mlflow.modelVersions": json.dumps(left), TAG + "retired": f"{model}/{version}"}
    registry.client.set_logged_model_tags(logged.model_id, tags)
