"""A strict reader of safetensors headers: the only code that parses them.

Format: 8 bytes little-endian header length N, N bytes of JSON, then the tensors' data. The
reference reader accepts duplicate keys, unknown fields and gaps; files from strangers may carry
any of these on purpose, so here every deviation is an error that names the file.
Nothing is allocated in proportion to a number that the file merely claims.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain, repeat
from operator import attrgetter, itemgetter, sub
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from merge_core.errors import CheckpointError
from merge_core.files.bounded_json import parse_json
from merge_core.files.untrusted import check_inside, open_plain
from merge_core.tensors.dtypes import ITEM_SIZES

if TYPE_CHECKING:
    from merge_core.tensors.inputs import Feed, FeedContext

MAX_HEADER_BYTES = 100 << 20
"""The reference implementation's own limit."""
MAX_RANK = 8
MAX_ELEMENTS = 1 << 48
_LFS_POINTER = b"version https://git-lfs"
_PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_NOT_READ = ("F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64")
"""Dtype codes of the format that stand for nothing an average makes sense of."""
_LONGEST_NAME = 512
_FIELDS = {"dtype", "shape", "data_offsets"}
_description = itemgetter("dtype", "shape", "data_offsets")


class TensorEntry(NamedTuple):
    """One tensor on disk: where its bytes are and how to read them."""

    name: str
    dtype: str
    """Safetensors code, e.g. `BF16`."""
    shape: tuple[int, ...]
    path: Path
    offset: int
    """Absolute position of the first byte in the file."""
    nbytes: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return self.nbytes // ITEM_SIZES[self.dtype]

    @property
    def stored(self) -> TensorEntry:
        """Itself: its values are on disk as they are."""
        return self

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """Itself alone: nothing else is read for it."""
        return (self,)

    def called(self, name: str) -> TensorEntry:
        """The same values under another name."""
        return self._replace(name=name)

    def open(self, context: FeedContext) -> Feed:
        """Its values, for one worker; each block is checked to be finite."""
        return context.open_stored(self)


class Columns(NamedTuple):
    """What a header says of its tensors, checked: one column for each field, in data order.

    Files of one architecture often have the same header, so it is apart from any path.
    """

    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    offsets: tuple[int, ...]
    """Of the first bytes, from the end of the header."""
    nbytes: Sequence[int]

    @property
    def end(self) -> int:
        """Bytes of data."""
        return self.offsets[-1] + self.nbytes[-1]

    def entries(self, path: Path, start: int) -> list[TensorEntry]:
        """The tensors of a file whose data starts at the byte `start`."""
        columns = zip(
            self.names,
            self.dtypes,
            self.shapes,
            repeat(path),
            map(start.__add__, self.offsets),
            self.nbytes,
            strict=False,
        )
        # `TensorEntry._make` without a call for each.
        return [*map(partial(tuple.__new__, TensorEntry), columns)]


KnownHeaders = dict[bytes, Columns]
"""Headers that were parsed before, by the sha256 of their JSON."""


def read_header(path: Path, known: KnownHeaders | None = None) -> dict[str, TensorEntry]:
    """The tensors of one safetensors file, in the order of their data.

    Args:
        known: headers that need not be parsed again; this one is added.

    Raises:
        CheckpointError: anything about the header or the file's length is not as the format says,
            or the path is a link out of its directory or no plain file.
    """
    check_inside(path.parent.resolve(), path)
    try:
        with os.fdopen(open_plain(path), "rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            prefix, opening = file.read(8), file.read(1)
            # A header of 1152 bytes has a length that begins like a pickle; what follows tells.
            if prefix.startswith(_PICKLE_MAGIC) and opening != b"{":
                raise _damaged(path, "is a pickle or zip archive, not safetensors data")
            if prefix + opening == _LFS_POINTER[:9]:
                raise CheckpointError(
                    f"{path.name} is a pointer of Git LFS, which stands for the file, and not the"
                    " file itself",
                    where=str(path.parent),
                    mend="fetch the files: git lfs pull, in the directory that was cloned",
                )
            if len(prefix) < 8:
                raise _damaged(path, f"is {size} bytes long, too short for a header")
            length = int.from_bytes(prefix, "little")
            if length > MAX_HEADER_BYTES:
                raise _damaged(path, f"claims a header of {length} bytes")
            if 8 + length > size:
                raise _damaged(
                    path, f"is truncated: its header needs {8 + length} bytes, it has {size}"
                )
            text = opening + file.read(length - 1) if length else b""
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", where=str(path)) from error
    start = 8 + length
    key = hashlib.sha256(text).digest() if known is not None else b""
    columns = known.get(key) if known is not None else None
    if columns is None:
        fields = _parse(path, text)
        fields.pop("__metadata__", None)
        columns = _in_columns(fields)
        if columns is None:
            entries = [_entry(path, name, value, start) for name, value in fields.items()]
            entries.sort(key=attrgetter("offset", "nbytes"))
            _check_coverage(path, entries, start, size)
            return {entry.name: entry for entry in entries}
        if known is not None:
            known[key] = columns
    entries = columns.entries(path, start)
    if start + columns.end != size:
        _check_coverage(path, entries, start, size)
    return dict(zip(columns.names, entries, strict=True))


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise _damaged(path, "has a header that is not a JSON object")
    try:
        fields = parse_json(text, unique_keys=True)
    except ValueError as error:
        raise _damaged(path, f"has a header that is not valid JSON ({error})") from None
    metadata = fields.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _damaged(path, "has __metadata__ that is not a map of strings")
    assert isinstance(fields, dict)
    return fields


def _in_columns(fields: Mapping[str, Any]) -> Columns | None:
    """What a sound header says whose tensors lie in its order; None where in doubt.

    The same checks as entry by entry, in half the time. It names no reason, since whatever fails
    here is looked at again, one by one.
    """
    described = fields.values()
    if {*map(type, described)} != {dict} or {*map(len, described)} != {len(_FIELDS)}:
        return None
    try:
        dtypes, shapes, offsets = zip(*map(_description, described), strict=True)
    except KeyError:
        return None
    if {*map(type, dtypes)} != {str} or {*map(type, shapes), *map(type, offsets)} != {list}:
        return None
    numbers = {*map(type, chain(chain.from_iterable(shapes), chain.from_iterable(offsets)))}
    if numbers != {int} or {*map(len, offsets)} != {2}:
        return None
    if not all(map(str.isprintable, fields)) or not all(map(_is_usual_length, {*map(len, fields)})):
        return None
    kinds = [*zip(dtypes, map(tuple, shapes), strict=True)]
    sizes = {kind: _size(*kind) for kind in {*kinds}}
    if -1 in sizes.values():
        return None
    nbytes = [*map(sizes.__getitem__, kinds)]
    first, last = zip(*offsets, strict=True)
    if first != (0, *last[:-1]) or [*map(sub, last, first)] != nbytes or last[-1] > MAX_ELEMENTS:
        return None
    same = {kind: kind for kind in sizes}  # few kinds: their dtypes and shapes are kept once
    dtypes, shapes = zip(*map(same.__getitem__, kinds), strict=True)
    return Columns((*fields,), dtypes, shapes, first, nbytes)


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor; -1 for one that no header may describe."""
    if dtype not in ITEM_SIZES or len(shape) > MAX_RANK:
        return -1
    if not all(0 <= extent <= MAX_ELEMENTS for extent in shape):
        return -1
    return math.prod(shape) * ITEM_SIZES[dtype] if _is_possible(shape) else -1


def _is_possible(shape: Sequence[int]) -> bool:
    """Whether the product of the extents, taken in their order, stays within the bound.

    The reference implementation multiplies so, and refuses what overflows before an extent of 0.
    """
    count = 1
    for extent in shape:
        count *= extent
        if count > MAX_ELEMENTS:
            return False
    return True


def _is_usual_length(characters: int) -> bool:
    return 0 < characters <= _LONGEST_NAME


def _entry(path: Path, name: str, value: Any, start: int) -> TensorEntry:
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise _damaged(path, f"tensor {name[:80]!r} has an unusable name")
    if not isinstance(value, dict) or value.keys() != _FIELDS:
        raise _damaged(
            path, f"tensor {name[:80]!r} is not described by dtype, shape and data_offsets alone"
        )
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        raise _unusable_dtype(path, name, dtype)
    if not _is_counts(shape) or len(shape) > MAX_RANK or not _is_possible(shape):
        raise _damaged(path, f"tensor {name[:80]!r} has the impossible shape {str(shape)[:80]}")
    if not _is_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _damaged(
            path, f"tensor {name[:80]!r} has the impossible data_offsets {str(offsets)[:80]}"
        )
    first, last = offsets
    nbytes = math.prod(shape) * ITEM_SIZES[dtype]
    if last - first != nbytes:
        raise _damaged(
            path, f"tensor {name[:80]!r} of {nbytes} bytes is given {last - first} bytes of data"
        )
    return TensorEntry(name, dtype, tuple(shape), path, start + first, nbytes)


def _unusable_dtype(path: Path, name: str, dtype: Any) -> CheckpointError:
    if dtype == "C64":
        return CheckpointError(
            f"tensor {name[:80]!r} has complex numbers, which are not merged",
            where=str(path),
            mend="most such tensors are tables that the model's code computes anew: save the"
            " checkpoint without it, and see that the model loads",
        )
    if isinstance(dtype, str) and dtype in _NOT_READ:
        return CheckpointError(
            f"tensor {name[:80]!r} is {dtype}, a format of quantised values, which cannot be"
            " merged",
            where=str(path),
            mend="use the unquantised checkpoint it was made from (its model card names it)",
        )
    return _damaged(path, f"tensor {name[:80]!r} has the unknown dtype {str(dtype)[:40]!r}")


def _is_counts(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:  # noqa: SIM110 - twice as fast as `all`, once for each tensor of a model
        if type(item) is not int or not 0 <= item <= MAX_ELEMENTS:
            return False
    return True


def _check_coverage(path: Path, entries: list[TensorEntry], start: int, size: int) -> None:
    position = start
    for entry in entries:
        if entry.offset != position:
            kind = "overlaps the one before" if entry.offset < position else "leaves a gap"
            raise _damaged(path, f"tensor {entry.name[:80]!r} {kind} in the data")
        position += entry.nbytes
    if position > size:
        raise _damaged(path, f"is truncated: its tensors need {position} bytes, it has {size}")
    if position < size:
        raise _damaged(path, f"has {size - position} bytes after its last tensor")


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path.name} {what}",
        where=str(path.parent),
        mend="fetch this file again; compare its sha256 with the publisher's",
    )
