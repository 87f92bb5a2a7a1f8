"""The checkpoints of a training run that are to be averaged: whole, chosen, known by content.

A run is a directory of checkpoints, or a Hub repository with one revision for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from merge_core.checkpoints.sources import describe_source
from merge_core.errors import CheckpointError
from merge_core.files.bounded_json import read_json
from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from merge_core.operations.trajectory.find import (
    checkpoints_in,
    matches,
    one_for_each_step,
    step_of,
    why_unfinished,
)
from merge_core.operations.trajectory.records import LeftAlone, RunCheckpoint, Trajectory
from merge_core.operations.trajectory.select import Choice, choose
from merge_core.operations.trajectory.trainer_state import (
    STATE_NAME,
    TrainerState,
    read_trainer_state,
)
from merge_core.progress import Progress
from tasks.hub_answers import HubUnreachableError
from tasks.sources.hub import (
    HubListing,
    list_repository,
    list_revisions,
    read_small_file,
    remote_facts,
)
from tasks.sources.references import HubReference, LocalReference, parse_plain

_INDEX_SUFFIX = ".safetensors.index.json"
_CONFIG = "config.json"


class TrainingRun(BaseModel):
    """Where the checkpoints of a training run are, and how to tell a whole one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str = Field(
        min_length=1,
        title="Training run",
        description="The directory that the training writes its checkpoints into, or a Hub"
        " repository (org/name) with a branch or tag for each. A path starts from the file's own"
        " directory, then from the current one.",
        json_schema_extra={"position": 0},
    )
    pattern: str = Field(
        default="checkpoint-*",
        min_length=1,
        title="Names",
        description="Pattern of the directories' or revisions' names. {step} marks the step where"
        " the name holds several numbers: epoch*-step{step}.",
        json_schema_extra={"position": 1},
    )
    marker: str | None = Field(
        default=None,
        min_length=1,
        pattern=r"^[^/]+$",
        title="Written last",
        description="A file that the training writes last; trainer_state.json for Hugging Face's"
        " Trainer. Empty: a checkpoint counts once nothing in it has changed for a while.",
        json_schema_extra={"position": 2},
    )
    settle_seconds: float = Field(
        default=60.0,
        ge=0.0,
        le=86_400.0,
        allow_inf_nan=False,
        title="Settled after",
        description="Seconds without a change after which a checkpoint is no longer being written,"
        " when there is no file that is written last.",
        json_schema_extra={"position": 3},
    )


def find_trajectory(
    training: TrainingRun,
    choice: Choice,
    home: Home,
    beside: Path | None = None,
    progress: Progress | None = None,
) -> Trajectory:
    """The chosen checkpoints of a run as they are now, each whole and known by its content.

    One that is being written, damaged, or of another run (its training log is not the beginning of
    the newest one's) is left alone, with the reason.

    Raises:
        CheckpointError: there is no such run.
        RecipeError: the pattern makes no sense.
        HubUnreachableError: the Hub did not answer.
    """
    place = parse_plain(training.run, beside, home)
    if isinstance(place, LocalReference):
        run: _Directory | _Repository = _Directory(place.directory, training)
    elif isinstance(place, HubReference):
        run = _Repository(place.repository, training)
    else:
        raise CheckpointError(
            "a training run is a directory or a Hub repository, not a registered model",
            where="training.run",
        )
    found, left_alone = run.checkpoints()
    everything = len(found) + len(left_alone)

    def measure(checkpoint: RunCheckpoint) -> float | None:
        state = run.state(checkpoint)
        return state.metric(choice.metric, checkpoint.step) if state else None

    while True:
        chosen, refused = choose(found, choice, run.problem, measure)
        left_alone += [each for each in refused if each not in left_alone]
        strangers = _of_other_runs(chosen, [run.state(each) for each in chosen])
        if not strangers:
            break
        left_alone += strangers
        names = {each.name for each in strangers}
        found = [each for each in found if each.name not in names]
    memo = DigestMemo(home.digest_memo)
    return Trajectory(
        run=run.name,
        chosen=tuple(run.identified(each, memo, progress) for each in chosen),
        left_alone=tuple(left_alone),
        found=everything,
    )


class _Directory:
    """A run whose checkpoints are directories on this disk."""

    def __init__(self, directory: Path, training: TrainingRun) -> None:
        self.name = str(directory)
        self._directory, self._training = directory, training

    def checkpoints(self) -> tuple[list[RunCheckpoint], list[LeftAlone]]:
        return checkpoints_in(self._directory, self._training.pattern)

    def problem(self, checkpoint: RunCheckpoint) -> str | None:
        return why_unfinished(
            Path(checkpoint.reference),
            marker=self._training.marker,
            settle_seconds=self._training.settle_seconds,
        )

    def state(self, checkpoint: RunCheckpoint) -> TrainerState | None:
        return read_trainer_state(Path(checkpoint.reference) / STATE_NAME)

    def identified(
        self, checkpoint: RunCheckpoint, memo: DigestMemo, progress: Progress | None
    ) -> RunCheckpoint:
        directory = Path(checkpoint.reference)
        try:
            found = describe_source(checkpoint.name, directory, memo, progress=progress)
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error}", where=str(directory)) from error
        return checkpoint.model_copy(update={"identity": found.digest})


class _Repository:
    """A run whose checkpoints are revisions of a Hub repository."""

    def __init__(self, repository: str, training: TrainingRun) -> None:
        self.name = repository
        self._training = training
        self._listings: dict[str, HubListing] = {}

    def checkpoints(self) -> tuple[list[RunCheckpoint], list[LeftAlone]]:
        found, left_alone, pattern = [], [], self._training.pattern
        for name, commit in list_revisions(self.name):
            if not matches(name.replace("/", "-"), pattern):
                continue
            step = step_of(name.replace("/", "-"), pattern)
            if step is None:
                left_alone.append(LeftAlone(name=name, reason="its name does not tell its step"))
                continue
            reference = f"{self.name}@{commit}"
            found.append(RunCheckpoint(step=step, name=name, reference=reference, identity=commit))
        return one_for_each_step(found, left_alone)

    def problem(self, checkpoint: RunCheckpoint) -> str | None:
        """A revision may be in the middle of an upload: its index names the files still to come."""
        try:
            listing = self._listing(checkpoint)
            names = {file.name for file in listing.files}
            if self._training.marker and self._file(checkpoint, self._training.marker) is None:
                return f"it has no {self._training.marker} yet"
            for index in sorted(name for name in names if name.endswith(_INDEX_SUFFIX)):
                path = self._file(checkpoint, index)
                shards = read_json(path).get("weight_map") if path else None
                wanted = set(shards.values()) if isinstance(shards, dict) else set()
                if not wanted or wanted - names:
                    return f"{len(wanted - names)} of the {len(wanted)} shards are missing"
            if not any(name.endswith(_INDEX_SUFFIX) for name in names) and len(listing.shards) > 1:
                return "it has several weight files and no index"
            if _CONFIG not in names:
                return f"it has no {_CONFIG}"
            remote_facts(checkpoint.reference, listing)
        except HubUnreachableError:
            raise
        except CheckpointError as error:
            return error.what
        return None

    def state(self, checkpoint: RunCheckpoint) -> TrainerState | None:
        path = self._file(checkpoint, STATE_NAME)
        return read_trainer_state(path) if path else None

    def identified(
        self, checkpoint: RunCheckpoint, memo: DigestMemo, progress: Progress | None
    ) -> RunCheckpoint:
        return checkpoint

    def _file(self, checkpoint: RunCheckpoint, name: str) -> Path | None:
        return read_small_file(self.name, checkpoint.identity, name)

    def _listing(self, checkpoint: RunCheckpoint) -> HubListing:
        commit = checkpoint.identity
        if commit not in self._listings:
            self._listings[commit] = list_repository(HubReference(self.name, commit))
        return self._listings[commit]


def _of_other_runs(
    chosen: Sequence[RunCheckpoint], states: Sequence[TrainerState | None]
) -> list[LeftAlone]:
    """Checkpoints whose training log is not the beginning of the newest one's."""
    if not chosen or states[-1] is None:
        return []
    newest, log = chosen[-1], states[-1]
    return [
        LeftAlone(
            name=each.name,
            reason=f"its training log is not the beginning of {newest.name}'s: it is of another"
            " run, or of a branch that was given up",
        )
        for each, state in zip(chosen[:-1], states[:-1], strict=True)
        if state is not None and not log.continues(state)
    ]
