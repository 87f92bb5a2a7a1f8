"""What there is below a checkpoint's directory, link by link, and what of it a list leaves out.

A file that nobody listed changes what is loaded as much as a changed one does: an
`adapter_config.json` with weights, a `model.safetensors` beside shards.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from merge_core.errors import CheckpointError, refused, unreadable
from merge_core.files.untrusted import check_plain
from merge_core.findings import printable

_DEEPEST = 8
"""A directory below so many others is not looked into, and for that counts as one of no file."""


class Present(NamedTuple):
    """What lies below a directory, by name; deeper things as `1_Pooling/config.json`."""

    files: frozenset[str]
    """Plain files, and links to such."""
    directories: frozenset[str]
    strange: tuple[str, ...]
    """One sentence for each thing that has no place in a checkpoint."""

    def besides(self, listed: Collection[str]) -> list[str]:
        """One sentence for each file that is not listed, and each directory of no file at all."""
        files = {*self.files, *listed}
        parents = {parent.as_posix() for name in files for parent in PurePosixPath(name).parents}
        extra = {*(self.files - set(listed)), *(f"{each}/" for each in self.directories - parents)}
        return [f"{printable(name)} is not listed" for name in sorted(extra)]


def files_present(directory: Path, *, alone: bool) -> Present:
    """Look through a directory, without following links to directories.

    Args:
        alone: the files belong to nobody else: links are strange, and files that have a second
            name (a hard link), by which they can be written from elsewhere.

    Raises:
        UnreadableError: a directory cannot be read.
    """
    files, directories, strange = set[str](), set[str](), list[str]()
    waiting = [""]
    while waiting:
        place = waiting.pop()
        for entry in _entries(directory / place):
            name = f"{place}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                directories.add(name)
                if name.count("/") < _DEEPEST:
                    waiting.append(f"{name}/")
            elif sentence := _what_is_wrong(directory, name, alone):
                strange.append(sentence)
            else:
                files.add(name)
    return Present(frozenset(files), frozenset(directories), tuple(sorted(strange)))


def _entries(place: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as found:
            return list(found)
    except OSError as error:
        raise unreadable(place, error) from error


def _what_is_wrong(directory: Path, name: str, alone: bool) -> str | None:
    status, shown = (directory / name).lstat(), printable(name)
    if alone and stat.S_ISLNK(status.st_mode):
        return f"{shown} is a link"
    if alone and stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        return f"{shown} has a second name elsewhere (a hard link)"
    try:
        check_plain(directory.resolve(), directory / name)
    except CheckpointError as error:
        return f"{shown} is no plain file" if alone else refused(error)
    return None
