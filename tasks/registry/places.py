"""MLflow's database in a home that was moved or copied: paths of the old place are rewritten.

MLflow writes down where the files of each experiment, run and model are, as absolute addresses. In
a home that was copied these lead into the home that it was copied from, and new files would be
written there. So before anything else uses the database, they are changed to where it is now. The
old place is noted beside the database, and known from the experiments that mergeflow made, whose
files lie there too. It is read at most, never written.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from merge_core.errors import MergeflowError, StepError, one_line
from merge_core.files.locks import held
from merge_core.files.private import open_private, private_umask, write_private

_DIRECTORY, _ARTIFACTS = "mlflow", "artifacts"
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("trace_tags", "value"),
)
"""Tables and columns that say where files are and will be."""
_NOTES = (
    ("model_versions", "source", "1"),
    ("model_versions", "storage_location", "1"),
    ("tags", "value", "key GLOB 'mergeflow.input.*'"),
    ("logged_model_tags", "tag_value", "tag_key IN ('mergeflow.path', 'mergeflow.reference')"),
    ("logged_model_params", "param_value", "param_key = 'reference'"),
    ("model_version_tags", "value", "key IN ('mergeflow.path', 'mergeflow.reference')"),
)
"""Tables, columns and rows that name a place, at which files may have been left behind."""
_PROXIED = "mlflow-artifacts:/"
_OBJECT = re.compile(r"(/.+)/store/objects/([0-9a-f]{64})")
_LARGEST = 1 << 20
_WAIT_SECONDS = 60.0

_log = logging.getLogger("mergeflow.home")


def artifacts_beside(database: Path) -> str:
    """The address at which experiments of a local database keep their files."""
    return (database.parent / _ARTIFACTS).as_uri()


def follow_home(database: Path) -> None:
    """Let a home's MLflow database lead to where it is now, if it was moved or copied.

    Files that only the old place has are copied here, if that is this user's. Several commands may
    come at once, and servers may have the database open: it changes in one transaction.

    Raises:
        MergeflowError: the database is one file with that of another home.
        StepError: it cannot be changed.
    """
    if database.parent.name != _DIRECTORY or not database.exists():
        return
    present = database.parent.parent
    if _noted(database) and not _left(database):
        return
    if not (os.access(database, os.W_OK) and os.access(database.parent, os.W_OK)):
        return  # nothing is written by way of it either
    try:
        # Before or after any registration, never during one: the lock is that of the registry.
        lock = open_private(database.with_name(f"{database.name}.lock"))
        with held(lock), private_umask():
            for former in _left(database):
                _refuse_hard_links(database, former)
                _follow(database, _Move(former, present))
            write_private(_note(database), os.fsencode(present) + b"\n")
    except (OSError, sqlite3.Error) as error:
        raise StepError(
            "this home was moved or copied, and its MLflow database cannot be changed to lead"
            f" here: {one_line(error)}",
            where=str(database),
            mend="see that you may write there and that the disk has room, and run the same command"
            " again",
        ) from error


class _Move:
    """From the directory in which the home was to the one in which it is."""

    def __init__(self, former: Path, present: Path) -> None:
        self.former, self.present = former, present

    def address(self, value: str) -> str:
        """A `file:` address or plain path, as it is now; others as they are."""
        for before, after in (
            (self.former.as_uri(), self.present.as_uri()),
            (str(self.former), str(self.present)),
        ):
            if _is_below(value, before) and not _is_below(value, after):
                return after + value.removeprefix(before)
        return value

    def note(self, value: str) -> str:
        """The content of a note, if the files that it names came along."""
        changed = self.address(value)
        return changed if changed == value or _place(changed).exists() else value

    def document(self, value: Any) -> Any:
        """The same for every text in a document."""
        if isinstance(value, dict):
            return {key: self.document(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.document(item) for item in value]
        return self.note(value) if isinstance(value, str) else value


def _left(database: Path) -> list[Path]:
    """The homes, other than the one it is in, that the database was in."""
    found = _noted(database)
    former = {found} if found else set()
    try:
        with contextlib.closing(
            sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)
        ) as opened:
            former |= _of_experiments(opened)
            if found is None:
                former |= _of_objects(opened, database.parent.parent)
    except sqlite3.Error:
        return []  # no database of MLflow's, or none that can be read: whoever opens it says so
    return sorted(home for home in former if not _is_same(home / _DIRECTORY, database.parent))


def _of_experiments(opened: sqlite3.Connection) -> set[Path]:
    """Homes beside whose database the experiments that mergeflow made keep their files."""
    select = """
        SELECT artifact_location FROM experiments LEFT JOIN experiment_tags
        ON experiment_tags.experiment_id = experiments.experiment_id
        AND experiment_tags.key = 'mergeflow.experiment'
        WHERE experiment_tags.key IS NOT NULL OR experiments.experiment_id = 0
    """
    found = set()
    for (location,) in opened.execute(select):
        place = str(location).removesuffix("/0")  # MLflow's own first experiment
        if place.startswith("file:///") and place.endswith(f"/{_DIRECTORY}/{_ARTIFACTS}"):
            found.add(_place(place).parent.parent)
    return found


def _of_objects(opened: sqlite3.Connection, present: Path) -> set[Path]:
    """Homes in whose store a checkpoint was registered that this one's store has, too.

    For a home from before its place was noted; with a server, experiments do not tell.
    """
    places = _values(opened, "logged_model_tags", "tag_value", "tag_key = 'mergeflow.path'")
    matches = [_OBJECT.fullmatch(place) for place in places]
    objects = present / "store" / "objects"
    return {Path(match[1]) for match in matches if match and (objects / match[2]).is_dir()}


def _noted(database: Path) -> Path | None:
    """The home that the database was in when this was last looked at."""
    with contextlib.suppress(OSError):
        return Path(os.fsdecode(_note(database).read_bytes().removesuffix(b"\n")))
    return None


def _note(database: Path) -> Path:
    return database.with_name("place")


def _follow(database: Path, move: _Move) -> None:
    with contextlib.closing(
        sqlite3.connect(database, timeout=_WAIT_SECONDS, isolation_level=None)
    ) as opened:
        opened.execute("BEGIN IMMEDIATE")
        for location in _values(opened, "runs", "artifact_uri"):
            _bring_along(location, move)
        for location in _values(opened, "logged_models", "artifact_location"):
            _bring_along(location, move)
            _describe(database, move.address(location), move)
        changed = sum(_change(opened, *each, "1", move.address) for each in _ADDRESSES)
        changed += sum(_change(opened, *each, move.note) for each in _NOTES)
        opened.execute("COMMIT")
    _log.warning(
        "%s was moved or copied here from %s: %d places in its MLflow database lead here now",
        move.present,
        move.former,
        changed,
    )


def _values(opened: sqlite3.Connection, table: str, column: str, only: str = "1") -> list[str]:
    """Distinct texts of a column, none if this version of MLflow's database lacks it.

    Args:
        only: a condition in SQL that the rows meet.
    """
    if column not in {row[1] for row in opened.execute(f"PRAGMA table_info({table})")}:
        return []
    rows = opened.execute(f"SELECT DISTINCT {column} FROM {table} WHERE {only}").fetchall()
    return [value for (value,) in rows if isinstance(value, str)]


def _change(
    opened: sqlite3.Connection, table: str, column: str, only: str, change: Callable[[str], str]
) -> int:
    """Change the values of a column; in how many rows."""
    changed = 0
    for value in _values(opened, table, column, only):
        after = _changed_text(value, change)
        if after != value:
            update = f"UPDATE {table} SET {column} = ? WHERE {column} = ? AND {only}"
            changed += opened.execute(update, (after, value)).rowcount
    return changed


def _changed_text(value: str, change: Callable[[str], str]) -> str:
    """A value, or the reference in it where it describes an input as JSON."""
    if not value.startswith("{"):
        return change(value)
    with contextlib.suppress(ValueError, RecursionError):
        known = json.loads(value)
        if isinstance(known.get("reference"), str):
            after = known | {"reference": change(known["reference"])}
            return json.dumps(after) if after != known else value
    return value


def _bring_along(location: str, move: _Move) -> None:
    """Copy a directory that was made at the old place after this home had left it."""
    address = move.address(location)
    former, here = _place(location), _place(address)
    if address == location or here.exists() or not former.is_dir() or not _is_own(move.former):
        return
    part = here.with_name(f"{here.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(former, part, ignore=_not_plain)
    part.rename(here)


def _not_plain(directory: str, names: list[str]) -> set[str]:
    """Whatever is neither a file nor a directory."""
    modes = {name: os.lstat(Path(directory) / name).st_mode for name in names}
    return {name for name, mode in modes.items() if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))}


def _describe(database: Path, location: str, move: _Move) -> None:
    """Let the description of a model name the places of now."""
    if location.startswith(_PROXIED):
        directory = database.parent / _ARTIFACTS / location.removeprefix(_PROXIED)
    else:
        directory = _place(location)
    if not directory.resolve().is_relative_to(move.present.resolve()):
        return  # not here; or a link leads out, to a file that the other home may share
    for name, changed in (("checkpoint.json", _changed_json), ("MLmodel", _changed_yaml)):
        path = directory / name
        if not path.is_file() or path.is_symlink() or path.stat().st_size > _LARGEST:
            continue
        with contextlib.suppress(ValueError, RecursionError, yaml.YAMLError):
            text = changed(path.read_text("utf-8"), move)
            if text is not None:
                write_private(path, text)


def _changed_json(text: str, move: _Move) -> str | None:
    content = json.loads(text)
    changed = move.document(content)
    return json.dumps(changed, indent=1) if changed != content else None


def _changed_yaml(text: str, move: _Move) -> str | None:
    # An alias would let a small file become a large value here; MLflow writes none.
    if any(isinstance(each, yaml.AliasEvent) for each in yaml.parse(text, Loader=yaml.SafeLoader)):
        return None
    content = yaml.safe_load(text)
    changed = move.document(content)
    return yaml.safe_dump(changed, sort_keys=False) if changed != content else None


def _refuse_hard_links(database: Path, former: Path) -> None:
    if database.stat().st_nlink > 1:
        raise MergeflowError(
            f"this home is a copy of {former} by hard links (`cp -al`), so that what is written"
            " here changes the other as well",
            where=str(database),
            mend="remove this copy, and copy the home with `cp -a`; or, if the other is only a"
            " backup, give this home a file of its own:"
            f" cp -p {database.name} own.db && mv own.db {database.name}",
        )


def _is_own(home: Path) -> bool:
    """Whether nobody else can have put anything into a home."""
    try:
        status = home.lstat()
    except OSError:
        return False
    open_to_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not open_to_others


def _is_same(one: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        return one.samefile(other)
    return False


def _is_below(value: str, place: str) -> bool:
    return value == place or value.startswith(f"{place}/")


def _place(address: str) -> Path:
    return Path(unquote(urlsplit(address).path) if address.startswith("file:") else address)
