"""The one place that computes digests: of files, of values, and of what a model is.

All digests are sha256 in hex, so a person can check any of them with `sha256sum`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from merge_core.errors import unreadable
from merge_core.files.named_file import open_named
from merge_core.files.names import is_model_file, is_named_file
from merge_core.files.private import open_private
from merge_core.records import FileDigest

_CHUNK = 1 << 22
_TABLE = (
    "CREATE TABLE digests (path TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, sha256 TEXT NOT NULL)"
)
_SHA256 = re.compile("[0-9a-f]{64}")
_TICK = 20_000_000
"""Nanoseconds that a file system's clock may stand still: a second change in them has the same
time as the first. Linux ticks every 10 ms or faster."""
_SECOND = 1_000_000_000
_log = logging.getLogger("mergeflow")


def canonical_json(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, NaN refused."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest_of(value: Any) -> str:
    """sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sha256_file(path: Path, listener: Callable[[int], None] | None = None) -> str:
    """sha256 of a file's bytes, read in constant memory; `listener` gets the bytes just read.

    Raises:
        UnreadableError: the file cannot be read.
    """
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    try:
        with open_named(path) as file:
            while count := file.readinto(buffer):
                digest.update(view[:count])
                if listener:
                    listener(count)
    except OSError as error:
        raise unreadable(path, error) from error
    return digest.hexdigest()


def model_digest(files: Iterable[FileDigest]) -> str:
    """The identity of a checkpoint: sha256 over names and digests of its model files, in order."""
    parts = [file for file in files if is_model_file(file.name) or is_named_file(file.name)]
    return digest_of(sorted([file.name, file.sha256] for file in parts))


class DigestMemo:
    """File digests remembered by (path, size, times, inode), shared by threads and processes.

    A file that changed in any of these is hashed again. The memo is a cache and no evidence: when
    it cannot be opened or written the digest is computed all the same, and what must be known for
    certain asks for `afresh`.
    """

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        self._connection = _opened(path) if path is not None else None

    def sha256(
        self,
        path: Path,
        listener: Callable[[int], None] | None = None,
        *,
        afresh: bool = False,
    ) -> str:
        """sha256 of a file, from memory when the file is unchanged.

        Args:
            afresh: read the file whatever is remembered, and remember what it holds.
        """
        path = path.absolute()
        with _turn(path):
            return self._sha256(path, listener, afresh)

    def _sha256(self, path: Path, listener: Callable[[int], None] | None, afresh: bool) -> str:
        known = None if afresh else self._recall(path, fingerprint(path))
        if known is not None:
            if listener:
                listener(path.stat().st_size)
            return known
        before = _settled(path)
        digest = sha256_file(path, listener)
        if before is not None and fingerprint(path) == before:
            self.remember(path, digest, before)
        return digest

    def remember(self, path: Path, digest: str, seen: str) -> None:
        """Note the digest of a file whose fingerprint was `seen` when it was computed.

        Not the fingerprint that it has now: the file may have changed a moment ago.
        """
        if self._connection is None:
            return
        path = path.absolute()
        with self._lock:
            try:
                self._connection.execute(
                    "INSERT OR REPLACE INTO digests VALUES (?, ?, ?)",
                    (as_text(path), seen, digest),
                )
                self._connection.commit()
            except sqlite3.Error:
                return

    def _recall(self, path: Path, fingerprint: str) -> str | None:
        if self._connection is None:
            return None
        with self._lock:
            try:
                row = self._connection.execute(
                    "SELECT sha256 FROM digests WHERE path = ? AND fingerprint = ?",
                    (as_text(path), fingerprint),
                ).fetchone()
            except sqlite3.Error:
                return None
        return str(row[0]) if row and _SHA256.fullmatch(str(row[0])) else None


def _opened(path: Path) -> sqlite3.Connection | None:
    """The memo's database; None where there is none to be had, or one that answers by itself."""
    try:
        os.close(open_private(path))  # SQLite gives its journals the mode of the file
        connection = sqlite3.connect(path, timeout=10, check_same_thread=False)
        connection.execute(_TABLE.replace("TABLE", "TABLE IF NOT EXISTS"))
        connection.commit()
        # A view or a trigger in place of the table would say what its author wants, whatever is
        # remembered; and where nothing can be written, a wrong row would never be put right.
        schema = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
        if schema.fetchall() == [(_TABLE,)] and os.access(path, os.W_OK):
            return connection
        connection.close()
    except (sqlite3.Error, OSError):
        return None
    _log.warning("%s is not as mergeflow makes it: remove it; until then all is hashed anew", path)
    return None


def as_text(path: str | Path) -> str:
    """A path as databases and JSON take it, also one that is not UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _turn(path: Path) -> threading.Lock:
    """Held while a file is hashed: who wants the same digest finds it remembered, then."""
    with _turns_lock:
        return _turns.setdefault(path, threading.Lock())


_turns_lock = threading.Lock()
_turns: dict[Path, threading.Lock] = {}


def fingerprint(path: Path) -> str:
    """What changes whenever a file's content does: size, times, device and inode.

    The time of the last change of any kind is among them, which nobody can set: an archive that is
    unpacked over a checkpoint gives its files old modification times.

    Raises:
        OSError: there is no such file.
    """
    status = _status(path)
    content = f"{status.st_size}:{status.st_mtime_ns}:{status.st_dev}:{status.st_ino}"
    return f"{content}:{status.st_ctime_ns}"


def settle(paths: Iterable[Path]) -> None:
    """Wait, a hundredth of a second or two, until no change that is still to come to these files
    can have the time of their last one."""
    for path in paths:
        _settled(path)


def _settled(path: Path) -> str | None:
    """A file's fingerprint, at a time from which on every change will show in it.

    None where that is not known: its times are whole seconds, and the last one is not over.
    """
    status = _status(path)
    age = time.time_ns() - status.st_ctime_ns
    if 0 <= age <= _TICK:
        time.sleep((_TICK - age) / _SECOND)
        return fingerprint(path)
    coarse = status.st_ctime_ns % _SECOND == 0
    return None if age < 0 or (coarse and age < 2 * _SECOND) else fingerprint(path)


def _status(path: Path) -> os.stat_result:
    return os.stat(path)  # noqa: PTH116 - follows links on purpose: Hub snapshots are links
