"""A merge's groups as Prefect tasks on a Dask cluster, through prefect-dask."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import as_completed
from prefect.states import Completed

from flows.run_step import UNSTORED, call_flow, end_with
from merge_core.distributed.job import Executor, MergeJob
from merge_core.distributed.worker import GroupResult, merge_group
from merge_core.errors import MergeflowError, StepError, one_line
from merge_core.runtime.processors import processors

LOCAL = "local"
_MOST_LOCAL_WORKERS = 8
_CONNECT = 20.0


class DaskCluster(Executor):
    """The workers of a Dask scheduler; Dask gives a dead worker's task to another worker."""

    def __init__(self, address: str) -> None:
        """`address`: of the scheduler, or `local` for a cluster of this machine's processors that
        lasts as long as the merge."""
        self._address = address
        self.whole_shards = address != LOCAL

    def run(self, directory: Path, job: MergeJob) -> None:
        fanned_out = merge_groups.with_options(task_runner=_task_runner(self._address))
        try:
            call_flow(fanned_out, str(directory), job.attempt, len(job.groups))
        except (MergeflowError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise StepError(
                f"the Dask cluster gave up: {type(error).__name__}: {one_line(error)}",
                where=self._address,
                mend="look at the logs of its workers, and run the same command again: what is"
                " finished is kept",
            ) from error


@flow(name="merge-groups", **UNSTORED)
def merge_groups(directory: str, attempt: str, groups: int) -> State[None]:
    """All groups of a merge, each as one task.

    Raises:
        MergeflowError: the first error of a worker.
    """
    futures = [
        merge_group_task.with_options(task_run_name=f"group {number + 1} of {groups}").submit(
            directory, attempt, number
        )
        for number in range(groups)
    ]
    for future in as_completed(futures):
        future.result()
    return end_with(Completed(message=f"{groups} groups"))


@task(name="merge-group", cache_policy=NO_CACHE, persist_result=False)
def merge_group_task(directory: str, attempt: str, number: int) -> GroupResult:
    """One group, on whichever worker has time for it."""
    result = merge_group(Path(directory), attempt, number)
    assert result is not None  # it waits where another worker is at the same group
    return result


def _task_runner(address: str) -> Any:
    try:
        from prefect_dask import DaskTaskRunner
    except ImportError as error:
        raise StepError(
            "prefect-dask is not installed here",
            where="execution.scale_out.dask",
            mend="pip install 'mergeflow[dask]', here and on the workers",
        ) from error
    if address != LOCAL:
        _check_reachable(address)
        return DaskTaskRunner(address=address)
    workers = min(_MOST_LOCAL_WORKERS, processors())
    # A scheduler runs the code of whoever connects, other users of the machine too: with a
    # certificate that lasts as long as the cluster, only this process and its workers can. And
    # Dask's dashboard would be open to the network.
    local = {
        "n_workers": workers,
        "threads_per_worker": 1,
        "dashboard_address": None,
        "protocol": "tls://",
        "security": True,
    }
    return DaskTaskRunner(cluster_kwargs=local)


def _check_reachable(address: str) -> None:
    """Dask's own client would try again for a long time."""
    place = urlsplit(address)
    try:
        socket.create_connection((place.hostname or "", place.port or 8786), _CONNECT).close()
    except OSError as error:
        raise StepError(
            f"there is no Dask scheduler: {error.strerror or error}",
            where=address,
            mend="start one (dask scheduler), or correct execution.scale_out.dask",
        ) from error
