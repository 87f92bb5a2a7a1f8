"""Has workers compute a merge's groups: writes the job, watches progress, checks the result."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from merge_core.distributed.job import (
    Executor,
    MergeJob,
    MergeOrder,
    ShardGroup,
    cut_into_groups,
    input_files,
    layout_digest,
    library_versions,
    write_job,
)
from merge_core.engine.run import model_statistics_of
from merge_core.errors import StepError
from merge_core.output.journal import boot_id
from merge_core.output.shard_writer import output_error
from merge_core.output.staging import Staging
from merge_core.planning.plan import Plan
from merge_core.progress import Progress, Throttle
from merge_core.runtime.compute import Compute
from merge_core.runtime.devices import is_cpu

_GROUPS_FOR_EACH_WORKER = 4
"""So that the last ones to finish do not leave the others waiting for long."""
_MOST_GROUPS = 64
_LOOK_EVERY = 0.5


@dataclass(frozen=True)
class Workers:
    """The workers that compute in place of this process, and the order they make the plan from."""

    executor: Executor
    order: MergeOrder


def coordinate(
    plan: Plan,
    staging: Staging,
    workers: Workers,
    compute: Compute,
    progress: Progress | None = None,
) -> None:
    """Have every tensor that is not in place computed by workers.

    Model statistics are gathered here, once, and handed over: a worker that gathered its own would
    read the whole model for it.

    Raises:
        MergeflowError: what a worker raised.
        StepError: workers kept dying, or left something undone.
    """
    everything = set(range(len(plan.tensors)))
    if everything <= staging.finished:
        return
    job = _job(plan, staging, workers, compute, progress)
    try:
        write_job(staging.directory, job)
    except OSError as error:
        raise output_error(error, staging.directory) from error
    with _watching(plan, staging, progress):
        workers.executor.run(staging.directory, job)
    staging.finished = staging.vouched_for()
    undone = everything - staging.finished
    if undone:
        raise StepError(
            f"{len(undone)} tensors, {plan.tensors[min(undone)].name} the first of them, are not in"
            " place, though no worker said that anything failed",
            where=str(staging.directory),
            mend="run the same command again: what is finished is kept. Do all workers write to"
            " this storage?",
        )


def _job(
    plan: Plan,
    staging: Staging,
    workers: Workers,
    compute: Compute,
    progress: Progress | None,
) -> MergeJob:
    found = model_statistics_of(plan, compute, progress)
    return MergeJob(
        plan=plan.digest,
        layout=layout_digest(plan),
        attempt=staging.attempt,
        boot=boot_id(),
        order=workers.order,
        groups=_groups(plan, workers.executor),
        inputs=input_files(plan),
        surveys={key: each.to_json() for key, each in found.items()},
        versions=library_versions(),
        device="cpu" if is_cpu(compute.device) else compute.device.replace("auto", "cuda"),
        threads=compute.threads,
        block_elements=compute.block_elements,
    )


def _groups(plan: Plan, executor: Executor) -> tuple[ShardGroup, ...]:
    workers = executor.workers
    count = _MOST_GROUPS if workers is None else _GROUPS_FOR_EACH_WORKER * workers
    return cut_into_groups(plan, count, whole_shards=executor.whole_shards)


@contextmanager
def _watching(plan: Plan, staging: Staging, progress: Progress | None) -> Iterator[None]:
    """Report progress by what the workers' journals say, whoever the workers are."""
    if progress is None:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        throttle = Throttle(progress, "merge", sum(tensor.slot.nbytes for tensor in plan.tensors))
        seen: set[int] = set()
        while True:
            last = over.wait(_LOOK_EVERY)
            found = staging.vouched_for() - seen
            throttle.advance(sum(plan.tensors[index].slot.nbytes for index in found))
            seen |= found
            if last:
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
