"""Where things of the store wait before they are deleted, and the ways in, back and out.

    store/quarantine/<name>.<when>.<random>/record.json    what it is, and where it was
    store/quarantine/<name>.<when>.<random>/item           the thing itself, moved in one rename

A thing that is needed after all goes back as it was. Only what has been deleted frees disk space.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from merge_core.errors import OutputError
from merge_core.files.locks import held, lock_file, try_lock
from merge_core.files.private import make_private_directory, write_private
from merge_core.files.removal import move_entry, remove_entry
from merge_core.homes.home import Home
from merge_core.output.working_directory import LOCK, read_plain
from merge_core.records import Record

Place = Literal["objects", "staging"]

_RECORD, _ITEM, _LOCK = "record.json", "item", ".lock"
_ENTRY = re.compile(r"[\w.-]{1,200}\.\d{8}T\d{6}Z\.[0-9a-f]{8}", re.ASCII)
_PLAN = re.compile(r"[0-9a-f]{64}")


class Quarantined(Record):
    """A thing that was taken out of the store and is not deleted yet."""

    entry: str
    """Name of its directory in the quarantine."""
    place: Place
    """Of the store, where it was."""
    name: str
    """Its name there: object id or plan digest."""
    bytes: int
    moved: float
    """When it was moved here, in seconds since the epoch."""
    delete_after: float
    """From when on it may be deleted, in seconds since the epoch."""
    plans: tuple[str, ...] = ()
    """Digests of the plans whose pointers led to it."""


def store_directory(home: Home, name: str) -> Path | None:
    """A directory of the store; None when it is missing, or a link leads there.

    What lies behind a link is somebody else's: it is neither listed nor removed.
    """
    store = home.path / "store"
    path = store / name
    if store.is_symlink() or path.is_symlink() or not path.is_dir():
        return None
    return path


def linked_directories(home: Home) -> list[Path]:
    """Places of the store that are links, so that what they lead to is left alone."""
    store = home.path / "store"
    places = (store, *(store / name for name in ("objects", "staging", "quarantine", "plans")))
    return [path for path in places if path.is_symlink()]


@contextlib.contextmanager
def one_at_a_time(home: Home) -> Iterator[None]:
    """Hold the quarantine: of several that tidy one store, each waits for the one before it.

    Raises:
        OutputError: the quarantine cannot be made.
    """
    directory = _directory(home)
    try:
        make_private_directory(directory)
        descriptor = lock_file(directory / _LOCK, 0o600)
    except OSError as error:
        raise _as_output_error(error, directory) from error
    with held(descriptor):
        yield


def set_aside(
    home: Home, place: Place, name: str, *, size: int, keep_for: float
) -> Quarantined | None:
    """Move a thing of the store to the quarantine.

    Args:
        keep_for: seconds until it may be deleted.

    Returns:
        None when it is gone, or a merge has begun to work on it.

    Raises:
        OutputError: it cannot be moved.
    """
    source = store_directory(home, place)
    if source is None:
        return None
    now = time.time()
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    kept = Quarantined(
        entry=f"{name}.{stamp}.{secrets.token_hex(4)}",
        place=place,
        name=name,
        bytes=size,
        moved=now,
        delete_after=now + keep_for,
        plans=tuple(_plans_of(home, name)) if place == "objects" else (),
    )
    entry = _directory(home) / kept.entry
    with contextlib.ExitStack() as held:
        try:
            if place == "staging" and not held.enter_context(_no_merge_at(source / name)):
                return None
            write_private(entry / _RECORD, kept.model_dump_json(indent=1) + "\n")
            move_entry(source, name, entry, _ITEM)
        except FileNotFoundError:
            _forget(entry)
            return None
        except OSError as error:
            _forget(entry)
            raise _as_output_error(error, source / name) from error
    for plan in kept.plans:
        with contextlib.suppress(OSError):
            (home.path / "store" / "plans" / plan).unlink()
    return kept


def quarantined(home: Home) -> list[Quarantined]:
    """What waits in the quarantine, the oldest first.

    An entry without a usable record is not ours to judge, and one that a person has emptied by
    hand is nothing: both are left out.
    """
    directory = store_directory(home, "quarantine")
    if directory is None:
        return []
    entries = [path for path in directory.iterdir() if _ENTRY.fullmatch(path.name)]
    found = [_read(path) for path in entries if os.path.lexists(path / _ITEM)]
    return sorted((item for item in found if item), key=lambda item: (item.moved, item.entry))


def item_path(home: Home, item: Quarantined) -> Path:
    """Where a thing is now."""
    return home.path / "store" / "quarantine" / item.entry / _ITEM


def put_back(home: Home, item: Quarantined, *, as_new: bool = False) -> None:
    """Move a thing to where it was, with the pointers of its plans.

    Args:
        as_new: let its age begin again, for one that nothing is known to need.

    Raises:
        OutputError: something else is there now, or it cannot be moved.
    """
    entry, target = _directory(home) / item.entry, home.path / "store" / item.place
    try:
        if target.is_symlink() or target.parent.is_symlink():
            raise OSError(20, "a link stands where it was")
        make_private_directory(target)
        if as_new:
            os.utime(entry / _ITEM, follow_symlinks=False)
        move_entry(entry, _ITEM, target, item.name)
    except OSError as error:
        raise _as_output_error(error, target / item.name) from error
    if item.plans and (plans := store_directory(home, "plans")):
        for plan in filter(_PLAN.fullmatch, item.plans):
            with contextlib.suppress(OSError):
                if not os.path.lexists(plans / plan):
                    write_private(plans / plan, item.name + "\n")
    _forget(entry)


def count_as_new(home: Home, checkpoint: Path) -> None:
    """Let the age of a thing in the store begin again: a run has found it there and needs it."""
    if checkpoint.parent == home.objects:
        with contextlib.suppress(OSError):  # another user's, or gone: the run will say so
            os.utime(checkpoint, follow_symlinks=False)


def find_quarantined(home: Home, name: str) -> Quarantined:
    """The one thing in the quarantine whose name, or that of its entry, begins so.

    Raises:
        OutputError: there is none, or there are several.
    """
    waiting = quarantined(home)
    found = [item for item in waiting if name and item.entry.startswith(name)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(item.entry for item in found or waiting)
    raise OutputError(
        f"{len(found) or 'no'} things in the quarantine have a name that begins so",
        where=name,
        mend=f"name one of these: {known}" if known else "nothing waits there",
    )


def is_back(home: Home, item: Quarantined) -> bool:
    """Whether the store has something of its name again: the same merge was made anew."""
    return os.path.lexists(home.path / "store" / item.place / item.name)


def delete(home: Home, item: Quarantined) -> None:
    """Delete a thing for good.

    Raises:
        OutputError: something of it cannot be deleted.
    """
    directory = _directory(home)
    try:
        if os.path.lexists(directory / item.entry / _ITEM):
            remove_entry(directory / item.entry, _ITEM)
        remove_entry(directory, item.entry)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _as_output_error(error, directory / item.entry) from error


def _directory(home: Home) -> Path:
    directory = home.path / "store" / "quarantine"
    for path in (directory.parent, directory):
        if path.is_symlink():
            raise OutputError(
                "a link stands where the quarantine of the store would be",
                where=str(path),
                mend="remove the link; to have the store on another disk, move the whole home"
                " there and name it in MERGEFLOW_HOME",
            )
    return directory


def _read(entry: Path) -> Quarantined | None:
    """What an entry says of itself; None for one that says nothing usable of its own name."""
    try:
        found = Quarantined.model_validate_json(read_plain(entry / _RECORD))
    except (OSError, ValidationError):
        return None
    is_sound = found.entry == entry.name and found.entry.startswith(f"{found.name}.")
    return found if is_sound and "/" not in found.name and not entry.is_symlink() else None


def _plans_of(home: Home, name: str) -> Iterator[str]:
    """Digests of the plans whose pointers lead to an object."""
    plans = store_directory(home, "plans")
    for pointer in sorted(plans.iterdir()) if plans else ():
        with contextlib.suppress(OSError):
            if read_plain(pointer).strip() == name.encode() and _PLAN.fullmatch(pointer.name):
                yield pointer.name


@contextlib.contextmanager
def _no_merge_at(staging: Path) -> Iterator[bool]:
    """Keep merges out of a staging directory during the block; False when one is at work."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(staging / LOCK, flags)
    except OSError:  # a link as such, or what a merge left that was killed before it had a lock
        yield True
        return
    try:
        yield try_lock(descriptor, staging / LOCK)
    finally:
        os.close(descriptor)


def _forget(entry: Path) -> None:
    """Remove an entry that holds nothing; one that does hold something stays."""
    if not os.path.lexists(entry / _ITEM):
        with contextlib.suppress(OSError):
            (entry / _RECORD).unlink(missing_ok=True)
            entry.rmdir()


def _as_output_error(error: OSError, path: Path) -> OutputError:
    return OutputError(
        f"cannot be moved or removed: {error.strerror}",
        where=str(path),
        mend="see that this directory and the one above it are yours and on one file system; the"
        " rest was done all the same",
    )
