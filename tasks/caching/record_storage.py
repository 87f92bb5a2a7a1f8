"""The storage through which Prefect reads and writes a step's record: only checked data passes.

Prefect is never given a stored file. It is given the record that was found in it, written anew, so
that nothing can be exchanged between the look and the use.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect.filesystems import WritableFileSystem
from pydantic import PrivateAttr

from merge_core.files.own_files import NotOursError, read_own, set_aside
from merge_core.files.private import write_private
from merge_core.records import Record
from tasks.caching.stored_records import MAX_BYTES, parse_record, stored_form

_log = logging.getLogger("mergeflow.cache")


class RecordStorage(WritableFileSystem):
    """One file that holds a record of one class, for one attempt at a step: Prefect asks whether it
    is there, and then for its content, and both times hears of the same look at it.

    Flows and tasks that run inside the step inherit it, on other machines as an empty copy without
    a path. Nothing of theirs is kept, and nothing is found.
    """

    _block_type_name = "Record of a mergeflow step"
    _path: Path | None = PrivateAttr(None)
    _kind: type[Record] = PrivateAttr(Record)
    _fits: Callable[[Any], bool] | None = PrivateAttr(None)
    _found: bytes | None = PrivateAttr(None)

    @classmethod
    def of(cls, path: Path, kind: type[Record], fits: Callable[[Any], bool]) -> RecordStorage:
        """The storage of one record.

        Args:
            fits: whether a record, valid in itself, belongs to the step's arguments.
        """
        storage = cls()
        storage._path, storage._kind, storage._fits = path, kind, fits
        return storage

    def read_path(self, path: str, _sync: bool = True) -> bytes:  # type: ignore[override]
        """The record, if there is a valid one. Any other file is moved aside, with a warning.

        Raises:
            FileNotFoundError: there is none.
        """
        place = self._place(path)
        if place is None:
            raise FileNotFoundError(path)
        if self._found is None:
            try:
                record = self._screened(read_own(place, MAX_BYTES), place)
            except NotOursError as error:
                _put_away(place, str(error))
                raise FileNotFoundError(path) from None
            self._found = stored_form(record, str(place))
        return self._found

    async def aread_path(self, path: str) -> bytes:
        """As `read_path`."""
        return self.read_path(path)

    def write_path(  # type: ignore[override]
        self, path: str, content: bytes, _sync: bool = True
    ) -> None:
        """Keep a record. The exception of a step that failed, which nothing reads, is not kept.

        Raises:
            OSError: it cannot be written.
        """
        place = self._place(path)
        if place is None:
            return
        try:
            record = self._screened(content, place)
        except NotOursError as error:
            _log.warning("the result of this step is not kept: %s: %s", place.name, error)
            return
        self._found = stored_form(record, str(place))
        write_private(place, self._found)

    async def awrite_path(self, path: str, content: bytes) -> None:
        """As `write_path`."""
        self.write_path(path, content)

    def _resolve_path(self, path: str) -> Path | None:
        """Where Prefect thinks that a key is stored; it takes "" for the directory of all."""
        if self._path is None:
            return None
        return self._path.parent / Path(path).name if path else self._path.parent

    def _place(self, path: str) -> Path | None:
        """The file, if it is the one that is asked for."""
        own = self._path is not None and Path(path).name == self._path.name
        return self._path if own else None

    def _screened(self, content: bytes, place: Path) -> Record:
        if len(content) > MAX_BYTES:
            raise NotOursError(f"it is larger than {MAX_BYTES >> 20} MiB")
        record = parse_record(content, place.name, self._kind)
        if self._fits is None or not self._fits(record):
            raise NotOursError("it is about something else than this step is called with")
        return record


def _put_away(place: Path, reason: str) -> None:
    try:
        where = f"it is now in {set_aside(place).parent.name}"
    except FileNotFoundError:
        return  # another run of the same step was faster
    except OSError as error:
        where = f"it stays there, as it cannot be moved: {error.strerror}"
    _log.warning(
        "a cached result is not believed, and its step is done again: %s: %s; %s",
        place,
        reason,
        where,
    )
