"""Everything that is recorded about one version, fetched once, whatever state it is in.

Nothing here judges: a record that is gone or cannot be read is None, and the checks say so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from merge_core.files.bounded_json import parse_json
from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from merge_core.progress import Progress
from merge_core.records import CheckpointManifest, SourceCheckpoint
from merge_core.store.objects import object_id_of
from merge_core.store.vouching import departures
from tasks.promotion.baselines import Compared
from tasks.promotion.rule import PromotionRule
from tasks.records import Decision, EvaluationReport
from tasks.registry.client import TAG, Registry
from tasks.registry.faults import is_network_failure, unreachable
from tasks.registry.file_list import FILES_TAG
from tasks.registry.last_check import download_description
from tasks.registry.lock import LOCK, Lock
from tasks.registry.models import RECORD
from tasks.signing.trust import Trust

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
GONE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")
"""What MLflow says of what is not there."""


@dataclass(frozen=True)
class Evaluated:
    """One evaluation: its run, and the file with the value of every document."""

    run: Run
    raw: dict[str, Any] | None
    report: EvaluationReport | None
    sha256: str | None = None
    """Of the file."""

    @property
    def role(self) -> str:
        """`merged`, `base` or `expert/NAME`."""
        return str(self.run.data.tags.get(TAG + "role", ""))


@dataclass
class Evidence:
    """What MLflow and this machine have of a version."""

    registry: Registry
    home: Home
    version: ModelVersion
    scratch: Path
    progress: Progress | None = None
    trust: Trust | None = None
    """Keys that signatures are checked by; None: those of the home."""

    @property
    def address(self) -> str:
        """`models:/NAME/VERSION`."""
        return f"models:/{self.version.name}/{self.version.version}"

    def tag(self, key: str) -> str | None:
        """One of our tags of the version."""
        return self.version.tags.get(TAG + key) or None

    def fact(self, key: str) -> str | None:
        """What the version says of how it was made, or else the run that it names."""
        run = self.run
        of_run = run.data.tags.get(TAG + key) if run is not None else None
        return self.tag(key) or of_run or None

    @property
    def digest(self) -> str | None:
        """Of the checkpoint, as the version says it."""
        return self.tag("digest")

    @property
    def is_merge(self) -> bool:
        """Whether it was registered as the result of a merge: one thing that says so is enough, for
        tags may have been taken off."""
        of_ours = any(self.tag(key) for key in ("run_id", "verdict", "pipeline"))
        return of_ours or self.tag("role") == "merged" or bool(self.version.run_id)

    @cached_property
    def model(self) -> LoggedModel | None:
        """The LoggedModel that the version leads to."""
        named = self.version.model_id or (self.version.source or "").removeprefix("models:/")
        return self._or_none(self.registry.client.get_logged_model, named)

    @cached_property
    def held(self) -> Path | None:
        """What MLflow holds of the model, brought here."""
        from mlflow.exceptions import MlflowException

        if self.model is None:
            return None
        try:
            return download_description(self.registry, self.model, self.scratch / "held")
        except (OSError, MlflowException) as error:
            self._raise_if_away(error)
            return None

    @cached_property
    def checkpoint(self) -> SourceCheckpoint | None:
        """The checkpoint that MLflow's description names."""
        if self.held is None:
            return None
        try:
            record = parse_json((self.held / RECORD).read_bytes())
            known = {key: record[key] for key in SourceCheckpoint.model_fields if key in record}
            return SourceCheckpoint.model_validate(known)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @cached_property
    def departed(self) -> list[str]:
        """In what the checkpoint on this disk is not as it was recorded; every byte is read, once.

        Raises:
            CheckpointError: it cannot be looked at, or is refused.
        """
        if self.checkpoint is None:
            return []
        memo = DigestMemo(None)
        return departures(self.checkpoint, memo, afresh=True, progress=self.progress)

    @cached_property
    def object_directory(self) -> Path | None:
        """The object that the merge wrote, on this machine: another one may have the same model
        files, and then has the model's place in MLflow."""
        if self.checkpoint is None or self.manifest is None:
            return None
        directory = self.checkpoint.directory
        if object_id_of(directory) not in (None, self.manifest.object_id):
            directory = directory.with_name(self.manifest.object_id)
        return directory if directory.is_dir() else None

    @cached_property
    def run(self) -> Run | None:
        """The merge run that the version names."""
        named = self.tag("run_id")
        return self._or_none(self.registry.client.get_run, named) if named else None

    @property
    def is_listed(self) -> bool:
        """Whether the run is of a mergeflow that lists the run's files: of such a one the rest of
        its record is known exactly, too."""
        return self.run is not None and FILES_TAG in self.run.data.tags

    @cached_property
    def manifest(self) -> CheckpointManifest | None:
        """What the merge wrote, as its run keeps it."""
        return _validated(CheckpointManifest, self.file("manifest.json"))

    @cached_property
    def decision(self) -> Decision | None:
        """The verdict, as its run keeps it."""
        return _validated(Decision, self.file("decision.json"))

    @cached_property
    def rule(self) -> PromotionRule | None:
        """The rule that decided; None in runs of before rules were kept."""
        return _validated(PromotionRule, self.file("rule.json"))

    @cached_property
    def lock(self) -> Lock | None:
        """What was locked of the merge; None in runs of before locks were kept."""
        return _validated(Lock, self.file(LOCK))

    @cached_property
    def compared(self) -> Compared | None:
        """What the decision rests on; None in runs of before it was kept."""
        return _validated(Compared, self.file("compared.json"))

    @cached_property
    def evaluations(self) -> list[Evaluated]:
        """The evaluations that belong to the run, in the order in which they were recorded."""
        if self.run is None:
            return []
        found = self.registry.client.search_runs(
            [self.run.info.experiment_id],
            f"tags.`mlflow.parentRunId` = '{self.run.info.run_id}'"
            f" and tags.`{TAG}kind` = 'evaluation'",
            max_results=1000,
            order_by=["attributes.start_time ASC"],
        )
        return [self._evaluated(run) for run in found]

    def file(self, name: str, run: Run | None = None) -> bytes | None:
        """A file of a run, by default of the merge run; None where it is gone."""
        found = self.downloaded(name, run)
        try:
            return found.read_bytes() if found is not None else None
        except OSError:
            return None

    def downloaded(self, name: str, run: Run | None = None) -> Path | None:
        """The same as a file of this machine."""
        from mlflow.exceptions import MlflowException

        of = run or self.run
        if of is None:
            return None
        place = self.scratch / of.info.run_id
        place.mkdir(exist_ok=True)
        try:
            return Path(self.registry.client.download_artifacts(of.info.run_id, name, str(place)))
        except (OSError, MlflowException) as error:
            self._raise_if_away(error)
            return None

    def _raise_if_away(self, error: Exception) -> None:
        """What a server that is away does not give is not gone for that.

        Raises:
            RegistryUnreachableError: nobody answered.
        """
        if is_network_failure(error):
            raise unreachable(self.registry.address, type(error).__name__) from None

    def has(self, name: str) -> bool:
        """Whether there is such a file, or directory, among those of the merge run."""
        if self.run is None:
            return False
        found = self.registry.client.list_artifacts(self.run.info.run_id)
        return any(item.path == name for item in found)

    def names_in(self, directory: str) -> list[str]:
        """Names of what lies in a directory among the files of the merge run."""
        if self.run is None:
            return []
        found = self.registry.client.list_artifacts(self.run.info.run_id, directory)
        return [str(item.path) for item in found]

    def _evaluated(self, run: Run) -> Evaluated:
        content = self.file("evaluation.json", run)
        try:
            raw = parse_json(content, unique_keys=True, finite=True) if content else None
        except ValueError:
            raw = None
        report = _validated(EvaluationReport, content)
        digest = sha256(content).hexdigest() if content else None
        return Evaluated(run, raw if isinstance(raw, dict) else None, report, digest)

    def run_named(self, run_id: str) -> Run | None:
        """A run, if it is there."""
        return self._or_none(self.registry.client.get_run, run_id)

    def model_named(self, model_id: str) -> LoggedModel | None:
        """A LoggedModel, if it is there."""
        return self._or_none(self.registry.client.get_logged_model, model_id)

    @staticmethod
    def _or_none(ask: Callable[[str], T], named: str) -> T | None:
        from mlflow.exceptions import MlflowException

        try:
            return ask(named)
        except MlflowException as error:
            if error.error_code not in GONE:
                raise
            return None


def _validated(kind: type[M], content: bytes | None) -> M | None:
    """The record; None where it is none, or readers would differ in what it says."""
    try:
        return kind.model_validate_json(content) if content and not says_twice(content) else None
    except ValidationError:
        return None


def says_twice(content: bytes | None) -> bool:
    """Whether readers would differ in what a file says: it is no JSON, or has a key twice."""
    try:
        parse_json(content or b"null", unique_keys=True, finite=True)
    except ValueError:
        return True
    return False
