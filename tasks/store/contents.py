"""What lies in the store: size and age of each thing, and whether it has to stay.

Links are looked at as links. A link's target outside the store is not ours, and never touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from merge_core.files.locks import try_lock
from merge_core.files.removal import mounted_below
from merge_core.homes.home import Home
from merge_core.output.manifest import MANIFEST_NAME
from merge_core.output.working_directory import LOCK, holds_only_ours, read_plain
from merge_core.records import Record
from merge_core.store.quarantine import Place, Quarantined, item_path, store_directory
from tasks.store.needs import Labels, Needs

Kind = Literal["checkpoint", "unfinished merge", "link", "file"]

_KINDS: dict[Place, Kind] = {"objects": "checkpoint", "staging": "unfinished merge"}
_OUR_NAME = re.compile(r"(\.removed-)?[0-9a-f]{64}")
"""An object's id; the second form was given to those that an older version began to remove."""
_PLAIN_NAME = re.compile(r"[\w.-]{1,128}", re.ASCII)


class StoredItem(Record):
    """Something in the store that takes room."""

    kind: Kind
    place: Place
    """Of the store, where it is."""
    name: str
    """Its name there: object id or plan digest."""
    path: str
    bytes: int
    age_seconds: float
    kept: str | None
    """Why it is kept; None when it can be removed."""


def look_at_store(home: Home, needs: Needs, older_than_seconds: float) -> list[StoredItem]:
    """Everything in the store, the largest first, with why it is kept.

    Args:
        needs: what registries and averages need; what links of kept things lead to is added.
        older_than_seconds: younger things are kept.
    """
    found = [_look(home, place, path) for place in _KINDS for path in _entries(home, place)]
    kept: dict[Path, str] = {}
    before = -1
    while len(kept) != before:  # the target of a link in a kept item is kept as well
        before = len(kept)
        for each in found:
            why = kept.get(each.path) or _why(each, needs, older_than_seconds)
            if why is not None and each.path not in kept:
                kept[each.path] = why
                for target in each.links:
                    needs.add(f"a link in {_shown(each.path.name)[:12]} leads to it", target)
    items = [_item(each, kept.get(each.path)) for each in found]
    return sorted(items, key=lambda item: (-item.bytes, item.name))


def labels_of_stored(home: Home) -> list[Labels]:
    """By what each thing in the store can be known."""
    return [_labels(home, place, path) for place in _KINDS for path in _entries(home, place)]


def labels_of_quarantined(home: Home, item: Quarantined) -> Labels:
    """The names by which an item in the quarantine can be known: those of its former place."""
    return _labels(home, item.place, home.path / "store" / item.place / item.name, item)


@dataclass(frozen=True)
class _Seen:
    """An entry of the store, before it is judged."""

    place: Place
    path: Path
    kind: Kind
    labels: Labels
    bytes: int
    age: float
    links: tuple[str, ...]
    """Real places that links in it lead to."""
    left_alone: str | None
    """Why it is not ours to remove, whatever anybody says."""


def _look(home: Home, place: Place, path: Path) -> _Seen:
    size, newest, links = 0, 0.0, []
    for status, link in _tree(path):
        size += status.st_blocks * 512
        newest = max(newest, status.st_mtime)
        if link is not None:
            links.append(link)
    kind = _kind(place, path)
    return _Seen(
        place=place,
        path=path,
        kind=kind,
        labels=_labels(home, place, path),
        bytes=size,
        age=time.time() - newest,
        links=tuple(links),
        left_alone=_not_ours(path, kind),
    )


def _item(seen: _Seen, why: str | None) -> StoredItem:
    return StoredItem(
        kind=seen.kind,
        place=seen.place,
        name=_shown(seen.path.name),
        path=_shown(str(seen.path)),
        bytes=seen.bytes,
        age_seconds=seen.age,
        kept=why,
    )


def _why(seen: _Seen, needs: Needs, oldest: float) -> str | None:
    why = needs.why(seen.labels) or seen.left_alone
    if why is None and seen.age < oldest:
        return "young: a run may be about to register it"
    return why


def _not_ours(path: Path, kind: Kind) -> str | None:
    if kind == "unfinished merge":
        if not _PLAIN_NAME.fullmatch(path.name) or not holds_only_ours(path):
            return "it holds something that no merge left: left alone"
        if _is_locked(path):
            return "a merge is working on it"
    elif not _OUR_NAME.fullmatch(path.name):
        return "no merge gives such a name: left alone"
    if kind in _KINDS.values() and mounted_below(path.resolve()):
        return "another file system is mounted in it"
    return None


def _kind(place: Place, path: Path) -> Kind:
    if path.is_symlink():
        return "link"
    return _KINDS[place] if path.is_dir() else "file"


def _labels(home: Home, place: Place, path: Path, moved: Quarantined | None = None) -> Labels:
    here = item_path(home, moved) if moved else path
    ids = {path.name, _digest(here)} - {""} if place == "objects" else set()
    real_home = Path(os.path.realpath(home.path))
    places = {os.path.normpath(path), str(real_home / "store" / place / path.name)}
    if not moved:
        places.add(os.path.realpath(path))
    return Labels(ids=frozenset(ids), places=frozenset(places))


def _digest(path: Path) -> str:
    """The model digest of a stored checkpoint; nothing for one without a usable manifest."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        return str(json.loads(read_plain(path / MANIFEST_NAME))["digest"])
    return ""


def _entries(home: Home, place: Place) -> Iterator[Path]:
    directory = store_directory(home, place)
    with contextlib.suppress(OSError):
        yield from sorted(directory.iterdir()) if directory else ()


def _tree(top: Path) -> Iterator[tuple[os.stat_result, str | None]]:
    """Every entry of a tree with its kind, and its target if it is a link. Passes over entries that
    cannot be read."""
    pending = [str(top)]
    while pending:
        path = pending.pop()
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            is_link = stat.S_ISLNK(status.st_mode)
            yield status, os.path.realpath(path) if is_link and path != str(top) else None
            if stat.S_ISDIR(status.st_mode):
                pending += [entry.path for entry in os.scandir(path)]


def _shown(text: str) -> str:
    """A name as text, whatever bytes it is made of."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_locked(staging: Path) -> bool:
    """Whether a merge holds the lock of its staging directory."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(staging / LOCK, flags)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        return not try_lock(descriptor, staging / LOCK)
    except OSError:
        return True
    finally:
        os.close(descriptor)
