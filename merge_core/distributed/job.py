"""A merge cut into groups of tensors, for workers that share nothing with it but storage.

The coordinator of a merge writes the job into the working directory: what to merge, how the
plan is cut, the model statistics. A worker (`merge_core.distributed.worker`) needs the directory's
path, the attempt and the number of a group; an `Executor` tells it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from merge_core.files.digests import digest_of
from merge_core.output.working_directory import JOB, read_plain, write_whole
from merge_core.planning.engine_version import ENGINE
from merge_core.planning.plan import Plan, PlannedTensor, make_plan
from merge_core.recipes.loading import parse_recipe
from merge_core.recipes.recipe import Recipe
from merge_core.records import Record, SourceCheckpoint

_DECIDING_LIBRARIES = ("mergeflow", "torch", "numpy", "numba")
"""Libraries whose version may decide a bit of the result."""


class ShardGroup(Record):
    """Consecutive tensors of a plan: the unit that a worker takes, and that is done again."""

    first: int
    end: int
    """One after the last."""
    nbytes: int
    """To write."""

    @property
    def tensors(self) -> range:
        """Indices of the plan's tensors."""
        return range(self.first, self.end)


class MergeOrder(Record):
    """What a plan is made from: enough to make the same one elsewhere."""

    recipe: dict[str, Any]
    sources: dict[str, SourceCheckpoint]
    statistics: dict[str, SourceCheckpoint]
    """What calibration measured. The field's name is that of the file's format."""
    shard_bytes: int
    copy_code: bool

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        sources: Mapping[str, SourceCheckpoint],
        calibration: Mapping[str, SourceCheckpoint] | None,
        shard_bytes: int,
        copy_code: bool,
    ) -> MergeOrder:
        """The order for the arguments of `make_plan`."""
        return cls(
            recipe=recipe.model_dump(mode="json", exclude_defaults=True),
            sources=dict(sources),
            statistics=dict(calibration or {}),
            shard_bytes=shard_bytes,
            copy_code=copy_code,
        )

    def plan(self) -> Plan:
        """The plan. Errors as for `make_plan`."""
        return make_plan(
            parse_recipe(self.recipe),
            self.sources,
            shard_bytes=self.shard_bytes,
            calibration=self.statistics,
            copy_code=self.copy_code,
        )


class InputFile(Record):
    """A weight file that is read, as it was when the merge began."""

    path: str
    size: int
    modified_ns: int
    inode: int


class MergeJob(Record):
    """All that a worker must know, beside the directory that it was found in."""

    plan: str
    """The plan's digest."""
    layout: str
    """Digest of what planning made of the inputs' headers."""
    attempt: str
    """Names the preallocated files (merge_core.output.staging)."""
    boot: str
    """Boot id of the machine that the merge began on."""
    order: MergeOrder
    groups: tuple[ShardGroup, ...]
    inputs: tuple[InputFile, ...]
    surveys: dict[str, Any]
    """Model statistics, by their keys. The field's name is that of the file's format."""
    versions: dict[str, str]
    device: str
    """Never `auto`: a GPU rounds some values otherwise than a CPU, so all workers use one kind."""
    threads: int | None
    block_elements: int | None


class Executor(ABC):
    """A way to have the groups of a job merged by workers in other processes."""

    workers: int | None = None
    """How many work at a time, if that is known."""
    whole_shards = True
    """Whether a file is to be written by one worker at a time. Network file systems need that:
    their clients write whole pages, and a neighbour's bytes may be on the same page."""

    @abstractmethod
    def run(self, directory: Path, job: MergeJob) -> None:
        """Have every group of a job merged. A group may be given to several workers, one after the
        other or at once: it is idempotent.

        Args:
            directory: the merge's working directory, which holds the job.

        Raises:
            MergeflowError: a worker's own error; StepError when workers keep dying.
        """


def cut_into_groups(plan: Plan, count: int, *, whole_shards: bool) -> tuple[ShardGroup, ...]:
    """About `count` groups that cost about the same number of bytes to read and write.

    Args:
        whole_shards: cut between files only.
    """
    units = _shards(plan) if whole_shards else [[index] for index in range(len(plan.tensors))]
    costs = [sum(_cost(plan.tensors[index]) for index in unit) for unit in units]
    share = max(1.0, sum(costs) / max(1, count))
    groups: list[list[int]] = []
    spent = 0
    for unit, cost in zip(units, costs, strict=True):
        # A unit belongs to the group that its middle falls into.
        if int((spent + cost / 2) / share) >= len(groups):
            groups.append([])
        groups[-1] += unit
        spent += cost
    return tuple(
        ShardGroup(
            first=group[0],
            end=group[-1] + 1,
            nbytes=sum(plan.tensors[index].slot.nbytes for index in group),
        )
        for group in groups
    )


def layout_digest(plan: Plan) -> str:
    """Identifies where everything is read and written: the same for the same headers."""
    return digest_of(
        [
            [[shard.name, shard.nbytes, shard.header[8:].decode()] for shard in plan.shards],
            [
                [tensor.method, [[str(e.path), e.offset, e.dtype, e.shape] for e in entries]]
                for tensor in plan.tensors
                for entries in (tensor.merged.entries,)
            ],
        ]
    )


def input_files(plan: Plan) -> tuple[InputFile, ...]:
    """Size and modification time of every weight file that a plan reads.

    Raises:
        OSError: one of them is gone.
    """
    paths = {entry.path for tensor in plan.tensors for entry in tensor.merged.entries}
    return tuple(_input_file(path) for path in sorted(paths))


def library_versions() -> dict[str, str]:
    """The versions that must agree between machines that are to give the same bytes."""
    found = {"engine": ENGINE}
    for name in _DECIDING_LIBRARIES:
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def write_job(directory: Path, job: MergeJob) -> None:
    """Put the job into the working directory.

    Raises:
        OSError: it cannot be written.
    """
    write_whole(directory / JOB, job.model_dump_json(indent=1))


def read_job(directory: Path) -> MergeJob | None:
    """The job of a working directory, or None where there is none that this version reads."""
    try:
        return MergeJob.model_validate_json(read_plain(directory / JOB))
    except (OSError, ValidationError):
        return None


def _shards(plan: Plan) -> list[list[int]]:
    """Indices of the tensors of each file that holds any."""
    shards: dict[int, list[int]] = {}
    for index, tensor in enumerate(plan.tensors):
        shards.setdefault(tensor.slot.shard, []).append(index)
    return list(shards.values())


def _cost(tensor: PlannedTensor) -> int:
    return tensor.slot.nbytes + sum(entry.nbytes for entry in tensor.merged.entries)


def _input_file(path: Path) -> InputFile:
    status = path.stat()
    return InputFile(
        path=str(path),
        size=status.st_size,
        modified_ns=status.st_mtime_ns,
        inode=status.st_ino,
    )
