"""A worker's side of a merge in groups: a pure, idempotent function of (job, group).

A group has a lock, so that two workers do not do the same twice, and journals, so that a killed
worker's successor does again only what was in flight. Neither is needed for the result to be right:
whoever writes a tensor writes the same bytes to the same place.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from merge_core.distributed.job import MergeJob, layout_digest, library_versions, read_job
from merge_core.engine.model_statistics import restored_model_statistics
from merge_core.engine.run import run_plan
from merge_core.errors import CheckpointError, StepError
from merge_core.files.digests import sha256_file
from merge_core.files.locks import lock_file, try_lock
from merge_core.methods.base import ModelStatistics
from merge_core.output.journal import Journal, boot_id, vouched_for
from merge_core.output.shard_writer import ShardWriter, output_error
from merge_core.output.working_directory import GROUPS, JOURNAL
from merge_core.planning.plan import Plan
from merge_core.progress import Progress
from merge_core.records import Record, SourceAdapter, SourceCheckpoint
from merge_core.runtime.compute import Compute
from merge_core.runtime.machine import machine_name

_PATIENCE = 60.0
"""Seconds after which a worker that holds a group and finishes nothing is not waited for."""
_POLL = 0.1

_one_at_a_time = threading.Lock()
"""torch's number of threads, on which sums may depend, belongs to the whole process."""


class GroupResult(Record):
    """What a worker did for one group."""

    group: int
    computed: int
    """Tensors; those that the journals vouched for were left as they were."""
    seconds: float
    worker: str
    """Machine and process."""


def merge_group(
    directory: Path,
    attempt: str,
    number: int,
    *,
    device: str | None = None,
    threads: int | None = None,
    wait: bool = True,
    progress: Progress | None = None,
) -> GroupResult | None:
    """Compute what is missing of one group, into the files of the merge.

    Args:
        directory: the merge's working directory, as the coordinator sees it.
        attempt: the one of the job that the caller means.
        device: one of the job's kind, for machines with several; by default the job's.
        threads: by default as many as the job says.
        wait: for a worker that is at the same group; else return None at once.

    Raises:
        StepError: this worker does not see the merge, or would not give the same bytes.
        CheckpointError: an input is not here, or has changed.
        MergeflowError: and all that `run_plan` raises.
    """
    started = time.monotonic()
    job, plan, model_statistics = _joined(directory, attempt)
    with _claimed(directory, job, number, wait) as claimed, _one_at_a_time:
        if not claimed:
            return None
        check_inputs(job)
        with GroupWriter(directory, plan, job, number) as writer:
            missing = set(job.groups[number].tensors) - writer.finished
            run_plan(
                plan,
                writer,
                Compute(device or job.device, threads or job.threads, job.block_elements),
                only=job.groups[number].tensors,
                model_statistics=model_statistics,
                progress=progress,
            )
            check_inputs(job)
            writer.make_durable()
    return GroupResult(
        group=number,
        computed=len(missing),
        seconds=round(time.monotonic() - started, 3),
        worker=f"{machine_name()}:{os.getpid()}",
    )


def is_finished(directory: Path, job: MergeJob, number: int) -> bool:
    """Whether the journals vouch for every tensor of a group."""
    return vouched_tensors(directory, job, number) >= set(job.groups[number].tensors)


def vouched_tensors(directory: Path, job: MergeJob, number: int) -> set[int]:
    """The tensors that are in place according to a group's journals and the coordinator's."""
    journals = [directory / JOURNAL, *_journals(directory, job.attempt, number)]
    return vouched_for(journals, job.plan, job.attempt, job.groups[-1].end)


def workers_seen(directory: Path, job: MergeJob, number: int) -> int:
    """How many workers have begun a group so far, in this attempt."""
    return len(_journals(directory, job.attempt, number))


def is_held(directory: Path, job: MergeJob, number: int) -> bool:
    """Whether a live worker is at a group."""
    with _claimed(directory, job, number, wait=False) as claimed:
        return not claimed


def check_inputs(job: MergeJob) -> None:
    """Make sure that the inputs are the job's: by size and time, else by content.

    Raises:
        CheckpointError: a file is not here, or differs.
    """
    known = _known_digests(job)
    for file in job.inputs:
        path = Path(file.path)
        try:
            status = path.stat()
        except OSError as error:
            raise CheckpointError(
                f"this input of the merge is not on this worker: {error.strerror}",
                where=file.path,
                mend="make the inputs readable at the same path on every worker",
            ) from error
        if (status.st_size, status.st_mtime_ns) == (file.size, file.modified_ns):
            continue
        content = known.get(file.path)
        if status.st_size != file.size or content != _content(path, status.st_mtime_ns):
            raise CheckpointError(
                "an input changed while it was merged, or is not the same file on this worker",
                where=file.path,
                mend="wait until nothing writes to the inputs, and merge again",
            )


class GroupWriter(ShardWriter):
    """Writes a group's tensors to the files of a merge that another process coordinates."""

    def __init__(self, directory: Path, plan: Plan, job: MergeJob, number: int) -> None:
        super().__init__(directory, plan)
        self._job = job
        self._number = number

    def __enter__(self) -> GroupWriter:
        self.finished = vouched_tensors(self._directory, self._job, self._number)
        # A journal for each writer: appending to one file from two machines loses lines.
        place = _place(self._directory, self._job.attempt)
        journal = place / f"{self._number}-{secrets.token_hex(4)}.journal"
        try:
            # On one machine alone finished tensors count: a worker that died did not sync them.
            believed = self.finished if self._is_elsewhere() else set()
            self._journal = Journal(journal, self._job.plan, self._job.attempt, believed)
            self._open_shards()
        except OSError as error:
            self.close_files()
            raise _over(self._directory) from error
        return self

    def __exit__(self, *_: object) -> None:
        self.close_files()

    def make_durable(self) -> None:
        """Have the other machine believe the journal: on the same one the kernel vouches for it."""
        if self._is_elsewhere():
            try:
                self._sync()
            except OSError as error:
                raise output_error(error, self._directory) from error

    def _is_elsewhere(self) -> bool:
        return self._job.boot != boot_id()


@lru_cache(maxsize=1)
def _joined(directory: Path, attempt: str) -> tuple[MergeJob, Plan, Mapping[str, ModelStatistics]]:
    """The job and its plan, made again from the inputs' headers; remembered from group to group."""
    job = read_job(directory)
    if job is None:
        raise StepError(
            f"the merge's working directory is not to be seen from {machine_name()}, or the"
            " merge is over",
            where=str(directory),
            mend="put the output, or MERGEFLOW_HOME, on storage that every worker mounts at the"
            " same path",
        )
    if job.attempt != attempt:
        raise _over(directory)
    _check_versions(job)
    check_inputs(job)
    plan = job.order.plan()
    if plan.digest != job.plan or layout_digest(plan) != job.layout:
        raise CheckpointError(
            "the inputs' headers give another plan on this worker than where the merge began",
            where=machine_name(),
            mend="make the same inputs readable at the same paths, and start again",
        )
    return job, plan, restored_model_statistics(plan.observed, job.surveys)


def _check_versions(job: MergeJob) -> None:
    here = library_versions()
    differing = [name for name in job.versions if here.get(name) != job.versions[name]]
    if differing:
        name = differing[0]
        raise StepError(
            f"this worker has {name} {here.get(name)}, and the merge began with"
            f" {job.versions[name]}; only the same versions give the same bytes",
            where=machine_name(),
            mend="install the same versions everywhere: pip install -c constraints.txt",
        )


@contextmanager
def _claimed(directory: Path, job: MergeJob, number: int, wait: bool) -> Iterator[bool]:
    """Hold a group's lock, if it can be had; the kernel frees it when its holder dies."""
    try:
        descriptor = lock_file(_place(directory, job.attempt) / f"{number}.lock", 0o644)
    except OSError as error:
        raise _over(directory) from error
    try:
        yield _lock(descriptor, directory, job, number, wait)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: Path, job: MergeJob, number: int, wait: bool) -> bool:
    seen, since = -1, time.monotonic()
    while True:
        try:
            if try_lock(descriptor, directory):
                return True
        except OSError as error:
            raise output_error(error, directory) from error
        if not wait:
            return False
        finished = len(vouched_tensors(directory, job, number))
        if finished != seen:
            seen, since = finished, time.monotonic()
        elif time.monotonic() - since > _PATIENCE:
            return True  # go on beside it: both write the same bytes
        time.sleep(_POLL)


def _place(directory: Path, attempt: str) -> Path:
    return directory / GROUPS / attempt


def _journals(directory: Path, attempt: str, number: int) -> list[Path]:
    return list(_place(directory, attempt).glob(f"{number}-*.journal"))


def _over(directory: Path) -> StepError:
    return StepError(
        "this merge is over, or was begun again; a worker came too late",
        where=str(directory),
        mend="nothing is to be done if the merge has finished; else start it again",
    )


def _known_digests(job: MergeJob) -> Mapping[str, str]:
    """sha256 of every input file that has one, by its path."""
    sources = [*job.order.sources.values(), *job.order.statistics.values()]
    adapters = [source.adapter for source in sources if source.adapter is not None]
    places: list[SourceCheckpoint | SourceAdapter] = [*sources, *adapters]
    return {
        str(place.directory / file.name): file.sha256 for place in places for file in place.files
    }


@lru_cache(maxsize=256)
def _content(path: Path, modified_ns: int) -> str:
    """sha256 of a file that carries another time than where the merge began; hashed once."""
    return sha256_file(path)
