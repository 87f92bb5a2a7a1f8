"""One candidate of a search: merged into memory, evaluated by a fork, kept by its content."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

import psutil

from merge_core.errors import OutputError, one_line
from merge_core.files.digests import DigestMemo, digest_of
from merge_core.files.locks import try_lock
from merge_core.files.private import make_private_directory
from merge_core.homes.home import Home
from merge_core.operations.merge import merge
from merge_core.progress import ProgressEvent
from merge_core.recipes.recipe import Recipe
from merge_core.records import CheckpointManifest, SourceCheckpoint
from merge_core.store.objects import Wanted
from merge_core.text.plain import plain_log
from tasks.caching.record_storage import RecordStorage
from tasks.caching.stored_records import parse_record, stored_form
from tasks.evaluation.evaluate import evaluate_checkpoint
from tasks.evaluation.evaluators import Evaluators
from tasks.evaluation.suite import Suite, suite_digest
from tasks.processes.model import resolved_device_kind
from tasks.records import EvaluationReport
from tasks.search.race import Race
from tasks.search.trial import Seconds

_log = plain_log("mergeflow")

_VERSION = 1
_MEMORY = Path("/dev/shm")
_PREFIX = "mergeflow-"
_LOCKED = f"{_PREFIX}candidate-"
"""Directories of this name are locked while a process needs them."""
_NEW = 60.0
"""Seconds: a younger directory may be about to be locked."""
_ROOM = 1.25
"""Times a checkpoint's bytes that have to be free: the model is loaded beside it."""


@dataclass(frozen=True)
class Measured:
    """A candidate's evaluation, and what it took."""

    report: EvaluationReport
    seconds: Seconds
    key: str
    known: bool


@dataclass
class Workshop:
    """Where the candidates of one search are made and measured."""

    home: Home
    sources: Mapping[str, SourceCheckpoint]
    suite: Suite
    device: str
    threads: int | None
    evaluators: Evaluators
    batch_size: int | None
    shard_bytes: int
    study: str
    _suite_digest: str = field(init=False)
    _is_told: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._suite_digest = suite_digest(self.suite)

    def measured(
        self, recipe: Recipe, calibration: Mapping[str, SourceCheckpoint], race: Race | None
    ) -> Measured:
        """A candidate's evaluation: found where it was measured before, whole or in such a race.

        Raises:
            MergeflowError: there is no such merge, or it cannot be evaluated.
        """
        wanted = Wanted.of_recipe(recipe, self.sources, self.shard_bytes, calibration)
        looked_at = race if race and race.number > 1 else None
        for by in dict.fromkeys((None, looked_at.by if looked_at else None)):
            key = self._key(wanted.plan_digest, by)
            if (known := self.stored(key)) is not None:
                return Measured(known, Seconds(), key, known=True)
        started = time.monotonic()
        with self._merged(recipe, calibration) as manifest:
            merged = time.monotonic()
            clock = _Clock()
            report = evaluate_checkpoint(
                manifest.as_source(),
                self.suite,
                device=self.device,
                threads=self.threads,
                scratch=self.home.scratch,
                logs=self.home.logs,
                memo=DigestMemo(None),  # every byte is read; files that go need no second note
                progress=clock,
                evaluators=self.evaluators,
                isolation="shared",
                batch_size=self.batch_size,
                looks=looked_at,
            )
        ended = time.monotonic()
        if report.looks and not report.looks.is_part:
            report = report.model_copy(update={"looks": None})  # it is whole
        key = self._key(wanted.plan_digest, looked_at.by if looked_at and report.looks else None)
        self._keep(key, report)
        forward = ended - (clock.began or ended)
        seconds = Seconds(
            merging=merged - started, starting=ended - merged - forward, forward=forward
        )
        return Measured(report, seconds, key, known=False)

    def noted(self, recipe: Recipe, report: EvaluationReport) -> Measured:
        """A candidate that is a copy of a checkpoint whose evaluation is known."""
        wanted = Wanted.of_recipe(recipe, self.sources, self.shard_bytes, {})
        key = self._key(wanted.plan_digest, None)
        if self.stored(key) is None:
            self._keep(key, report)
        return Measured(report, Seconds(), key, known=True)

    def stored(self, key: str) -> EvaluationReport | None:
        """An evaluation that was kept under a key."""
        storage, path = self._storage(key)
        try:
            return parse_record(storage.read_path(str(path)), path.name, EvaluationReport)
        except FileNotFoundError:
            return None

    def clear(self) -> None:
        """Remove what a killed process of this search left, and what others left that are gone: a
        search that is never gone on with would hold memory as long as the machine runs."""
        for directory in {_MEMORY, self.home.scratch}:
            for left in directory.glob(f"{_PREFIX}*"):
                if left.lstat().st_uid == os.getuid() and (self._is_own(left) or _is_left(left)):
                    shutil.rmtree(left, ignore_errors=True)

    def _key(self, plan_digest: str, by: str | None) -> str:
        return digest_of(
            {
                "plan": plan_digest,
                "suite": self._suite_digest,
                "device": resolved_device_kind(self.device),
                "batch_size": self.batch_size,
                "race": by,
                **{name: version(name) for name in ("lm-eval", "transformers", "torch")},
            }
        )

    def _storage(self, key: str) -> tuple[RecordStorage, Path]:
        path = self.home.cache / f"candidate-v{_VERSION}-{key}"
        return RecordStorage.of(path, EvaluationReport, partial(self._fits)), path

    def _fits(self, report: EvaluationReport) -> bool:
        return report.suite_digest == self._suite_digest and report.failure is None

    def _keep(self, key: str, report: EvaluationReport) -> None:
        storage, path = self._storage(key)
        storage.write_path(str(path), stored_form(report, str(path)))

    @property
    def _named(self) -> str:
        return hashlib.sha256(f"{self.home.path} {self.study}".encode()).hexdigest()[:16]

    def _is_own(self, directory: Path) -> bool:
        own = (f"{_LOCKED}{self._named}-", f"{_PREFIX}{self._named}-")  # the second: of before
        return directory.name.startswith(own)

    @contextmanager
    def _merged(
        self, recipe: Recipe, calibration: Mapping[str, SourceCheckpoint]
    ) -> Iterator[CheckpointManifest]:
        """A candidate on this disk, or in memory while there is room."""
        size = sum(file.size for source in self.sources.values() for file in source.files)
        places = [self.home.scratch]
        if _fits_in_memory(size // max(1, len(self.sources))):
            places.insert(0, _MEMORY)
        else:
            self._tell(f"{_MEMORY} has no room for one")
        make_private_directory(self.home.scratch)
        for parent in places:
            with ExitStack() as stack:
                try:
                    prefix = f"{_LOCKED}{self._named}-"
                    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
                    stack.callback(shutil.rmtree, directory, ignore_errors=True)
                    stack.callback(os.close, held := os.open(directory, os.O_RDONLY))
                    try_lock(held, directory)
                    manifest = merge(
                        recipe,
                        self.sources,
                        home=self.home,
                        out=directory / "candidate",
                        device=self.device,
                        threads=self.threads,
                        check=False,
                        calibration=calibration,
                        shard_bytes=self.shard_bytes,
                    )
                except (OutputError, OSError) as error:
                    if parent == places[-1]:
                        raise
                    self._tell(f"{_MEMORY} does not take one ({one_line(error)})")
                    continue
                yield manifest
                return

    def _tell(self, why: str) -> None:
        if not self._is_told:
            self._is_told = True
            _log.info("candidates are merged on the disk: %s", why)


def documents_in(reports: Sequence[EvaluationReport]) -> int:
    """How many documents were evaluated."""
    return sum(len(score.doc_ids) for report in reports for score in report.scores)


def _is_left(directory: Path) -> bool:
    """Whether no process needs a candidate any more, of whatever search it was."""
    if not directory.name.startswith(_LOCKED):
        return False
    try:
        if time.time() - directory.lstat().st_mtime < _NEW:
            return False
        descriptor = os.open(directory, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    except OSError:  # gone, or no directory
        return False
    try:
        return try_lock(descriptor, directory)
    finally:
        os.close(descriptor)


def _fits_in_memory(size: int) -> bool:
    if not os.access(_MEMORY, os.W_OK):
        return False
    free = min(shutil.disk_usage(_MEMORY).free, psutil.virtual_memory().available // 2)
    return size * _ROOM <= free


class _Clock:
    """Notes when the first document's forward pass can begin."""

    def __init__(self) -> None:
        self.began: float | None = None

    def __call__(self, event: ProgressEvent) -> None:
        if event.unit == "documents" and self.began is None:
            self.began = time.monotonic()
