"""Directories where a checkpoint of a recorded merge may be now, the likeliest first."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from merge_core.checkpoints.adapters.config import CONFIG_NAME as ADAPTER_CONFIG
from merge_core.errors import CheckpointError, MergeflowError
from merge_core.homes.home import Home
from merge_core.output.manifest import read_manifest
from merge_core.records import FileDigest
from tasks.hub_answers import hub_cache
from tasks.registry.lock import LockedPlace
from tasks.sources.references import LocalReference, parse_plain

_CONFIGS = frozenset({"config.json", ADAPTER_CONFIG})


class Places:
    """Candidates for a checkpoint, each with why it is one.

    Args:
        beside: directory that relative references start from.
        look_in: directories of which every one below is a candidate.
    """

    def __init__(self, home: Home, beside: Path | None, look_in: Sequence[Path]) -> None:
        self._home, self._beside, self._look_in = home, beside, look_in

    def of(
        self, wanted: LockedPlace, path: str | None, files: Sequence[FileDigest]
    ) -> Iterator[Path]:
        """Every candidate once.

        Args:
            path: where MLflow saw it last.
            files: its files, where they are known; a directory without them is left out.
        """
        seen = set()
        for directory in self._candidates(wanted, path, bool(files)):
            real = directory.resolve()
            is_first = directory == Path(wanted.path)
            if real not in seen and (is_first or _has(directory, files)):
                seen.add(real)
                yield directory

    def _candidates(self, wanted: LockedPlace, path: str | None, known: bool) -> Iterator[Path]:
        yield from (Path(each) for each in (wanted.path, path) if each)
        yield from self._meant_now(wanted.reference)
        yield from self._stored.get(wanted.digest, ())
        cache = hub_cache()
        if wanted.revision:
            yield from sorted(cache.glob(f"models--*/snapshots/{wanted.revision}"))
        for root in self._look_in:
            yield from _below(root)
        if known:  # else every byte of every neighbour would be read
            if wanted.path:
                yield from _directories(Path(wanted.path).parent)
            yield from sorted(cache.glob("models--*/snapshots/*"))

    def _meant_now(self, reference: str) -> Iterator[Path]:
        if reference.startswith("models:"):
            return
        try:
            meaning = parse_plain(reference, self._beside, self._home)
        except MergeflowError:
            return
        if isinstance(meaning, LocalReference):
            yield meaning.directory

    @cached_property
    def _stored(self) -> dict[str, list[Path]]:
        """Objects of this home's store, by the digest that each says of itself."""
        found: dict[str, list[Path]] = {}
        for place in _directories(self._home.objects):
            try:
                found.setdefault(read_manifest(place).digest, []).append(place)
            except CheckpointError:
                continue
        return found


def _has(directory: Path, files: Sequence[FileDigest]) -> bool:
    """Whether a directory has files of these names and sizes; no byte is read."""
    try:
        return directory.is_dir() and all(
            (directory / file.name).stat().st_size == file.size for file in files
        )
    except OSError:
        return False


def _directories(above: Path) -> list[Path]:
    try:
        return sorted(path for path in above.iterdir() if path.is_dir())
    except OSError:
        return []


def _below(root: Path) -> Iterator[Path]:
    """A directory and all below it that look like a checkpoint or an adapter."""
    for place, inner, names in os.walk(root):
        inner.sort()
        if _CONFIGS & set(names):
            yield Path(place)
