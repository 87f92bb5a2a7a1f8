"""Which items of the store are still needed; the others are removed by way of the quarantine.

Needed is what any registry that used the store refers to: every version, with an alias or without.
Then the latest averages of each configuration, and what is so young that a run may be about to
register it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Collection, Sequence

from merge_core.errors import MergeflowError, OutputError, StepError
from merge_core.homes.home import Home
from merge_core.records import Record
from merge_core.store.quarantine import (
    Quarantined,
    delete,
    is_back,
    one_at_a_time,
    put_back,
    quarantined,
    set_aside,
)
from tasks.registry.client import TAG, Registry, open_registry
from tasks.registry.models import find_logged_model
from tasks.registry.pages import every
from tasks.registry.past_averages import averages_of, forget_averages
from tasks.registry.version_tags import fact_of
from tasks.store.contents import StoredItem, labels_of_quarantined, labels_of_stored, look_at_store
from tasks.store.needs import (
    Needs,
    NotAskedError,
    ask_registries,
    averages_to_keep,
    links_that_serve,
)

KEPT_FOR = 7 * 86_400.0
"""Seconds that a thing waits in the quarantine, unless somebody says otherwise."""
_log = logging.getLogger("mergeflow")


class RemovedVersion(Record):
    """A registered version that retention removed."""

    model: str
    version: str
    object_id: str


class Tidied(Record):
    """What became of things that nothing needed, and of those that waited in the quarantine."""

    moved: tuple[Quarantined, ...] = ()
    """Moved to the quarantine now."""
    put_back: tuple[tuple[Quarantined, str], ...] = ()
    """Needed after all, with the reason."""
    deleted: tuple[Quarantined, ...] = ()
    failed: tuple[str, ...] = ()
    """What could not be done, in words."""

    @property
    def freed(self) -> int:
        """Bytes of disk space that are free now."""
        return sum(item.bytes for item in self.deleted)


def survey(
    home: Home,
    tracking_uri: str | None,
    *,
    keep: int,
    older_than_seconds: float,
    foreign: Collection[str] = (),
) -> list[StoredItem]:
    """Everything in the store, the largest first, with why it is kept.

    Args:
        tracking_uri: a registry to ask besides those that are known to have used the store; None
            for no other.
        keep: how many averages of each configuration are kept although nothing refers to them.
        older_than_seconds: younger things are kept.
        foreign: `models:/NAME/VERSION` of versions whose files need not be read.

    Raises:
        NotAskedError: a registry does not tell which items it serves.
    """
    needs = _needs(home, tracking_uri, keep, foreign)
    return look_at_store(home, needs, older_than_seconds)


def remove(home: Home, items: Sequence[StoredItem], *, keep_for: float = KEPT_FOR) -> Tidied:
    """Move what `survey` found to be without use to the quarantine. What fails stops nothing else.

    Args:
        keep_for: seconds until it may be deleted.

    Raises:
        OutputError: there can be no quarantine here.
    """
    moved, failed = [], []
    for item in items:
        if item.kept is not None:
            continue
        try:
            kept = set_aside(home, item.place, item.name, size=item.bytes, keep_for=keep_for)
        except OutputError as error:
            failed.append(f"{error.where}: {error.what}")
            continue
        if kept is not None:
            moved.append(kept)
    return Tidied(moved=tuple(moved), failed=tuple(failed))


def tidy(
    home: Home,
    tracking_uri: str | None,
    items: Sequence[StoredItem],
    *,
    keep: int,
    keep_for: float = KEPT_FOR,
    at_once: Collection[str] | None = (),
    foreign: Collection[str] = (),
) -> Tidied:
    """Move unused items to the quarantine, ask again, and delete items that have waited there.

    An item that was registered meanwhile goes back. All items go back when a registry does not
    answer the second time.

    Args:
        items: of `survey`.
        keep_for: seconds until the items that are moved now may be deleted.
        at_once: names of items that are deleted now, without waiting; None for all items.
        foreign: as in `survey`.

    Raises:
        NotAskedError: a registry does not tell which items it serves; nothing was removed.
        OutputError: there can be no quarantine here.
    """
    with one_at_a_time(home):
        first = remove(home, items, keep_for=keep_for)
        try:
            second = _settle(home, tracking_uri, first.moved, keep, at_once, foreign)
        except BaseException:
            for item in first.moved:
                with contextlib.suppress(OutputError):  # then it waits, and `--restore` does it
                    put_back(home, item)
            raise
    return second.model_copy(
        update={"moved": first.moved, "failed": (*first.failed, *second.failed)}
    )


def retire_versions(
    registry: Registry, model: str, pipeline: str, keep: int
) -> list[RemovedVersion]:
    """Take a pipeline's older versions out of the registry; their runs in MLflow stay.

    Kept are the `keep` latest of those without an alias, and every one with an alias.
    """
    client = registry.client
    aliased = {str(version) for version in client.get_registered_model(model).aliases.values()}
    found = every(
        client.search_model_versions,
        f"name = '{model}' and tags.`{TAG}pipeline` = '{pipeline}'",  # bases have none
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
        object_id = fact_of(registry, version, "object_id") or ""
        _note_removal(registry, tags.get(TAG + "digest", ""), model, number)
        client.delete_model_version(model, number)
        removed.append(RemovedVersion(model=model, version=number, object_id=object_id))
    return removed


def retain(
    home: Home,
    tracking_uri: str,
    *,
    name: str,
    model: str | None,
    keep: int,
) -> list[StoredItem]:
    """Keep the latest averages of a configuration; return the items removed from the store.

    An older average waits in the quarantine until the next average is made, so that the disk holds
    one more than are kept.

    Args:
        model: the registered model, if there is one.
        keep: how many averages without an alias are kept.
    """
    doomed: set[str] = set()
    if model is not None:
        with open_registry(tracking_uri, writing=True) as registry:
            doomed |= {each.object_id for each in retire_versions(registry, model, name, keep)}
    else:
        doomed |= {each.average.object_id for each in averages_of(home, name)[keep:]}
    forget_averages(home, name, keep)
    if not doomed and not quarantined(home):
        return []
    known = tracking_uri if _has_registry(tracking_uri) else None
    try:
        items = survey(home, known, keep=keep, older_than_seconds=0.0)
        gone = [item for item in items if item.name in doomed and item.kept is None]
        done = tidy(home, known, gone, keep=keep, keep_for=0.0)
    except NotAskedError as error:
        _log.warning("older averages stay in the store for now: %s", error.what)
        return []
    for failure in done.failed:
        _log.warning("an older average stays: %s", failure)
    names = {item.name for item in done.moved} - {item.name for item, _ in done.put_back}
    return [item for item in gone if item.name in names]


def _settle(
    home: Home,
    tracking_uri: str | None,
    fresh: Sequence[Quarantined],
    keep: int,
    at_once: Collection[str] | None,
    foreign: Collection[str],
) -> Tidied:
    """Put back needed items, and delete items that have waited for long enough."""
    waiting = quarantined(home)
    if not waiting:
        return Tidied()
    needs = _needs(home, tracking_uri, keep, foreign)
    new = {item.entry for item in fresh}
    back, deleted, failed = [], [], []
    for item in waiting:
        why = needs.why(labels_of_quarantined(home, item))
        is_due = item.entry not in new and item.delete_after <= time.time()
        try:
            if why is not None and not is_back(home, item):
                put_back(home, item)
                back.append((item, why))
            elif is_due or at_once is None or item.name in at_once:
                delete(home, item)
                deleted.append(item)
        except OutputError as error:
            failed.append(f"{error.where}: {error.what}")
    return Tidied(put_back=tuple(back), deleted=tuple(deleted), failed=tuple(failed))


def _needs(home: Home, tracking_uri: str | None, keep: int, foreign: Collection[str]) -> Needs:
    waiting = [labels_of_quarantined(home, item) for item in quarantined(home)]
    things = [*labels_of_stored(home), *waiting]
    needs = ask_registries(home, tracking_uri, things, foreign=foreign)
    needs.take(averages_to_keep(home, keep))
    needs.take(links_that_serve(home))
    return needs


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
