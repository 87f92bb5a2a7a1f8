"""The flow that a worker of a work pool runs: one group of a merge that another run coordinates."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.gpu_slot import device_slot
from flows.run_log import log_to_prefect
from flows.run_step import UNSTORED
from merge_core.distributed.job import read_job
from merge_core.distributed.worker import merge_group
from merge_core.errors import MergeflowError
from merge_core.files.private import private_umask


@flow(name="merge-shard-group", **UNSTORED)
def merge_shard_group(directory: str, attempt: str, group: int) -> State[None]:
    """Merge one group. Ends in `Completed`, or in a failed state that is named after the error.

    Args:
        directory: the merge's working directory, on storage that this machine shares.
        attempt: the one of its job.
        group: number of the group, from 0.
    """
    log_to_prefect()
    place = Path(directory)
    job = read_job(place)
    try:
        with private_umask(), device_slot(job.device if job else "cpu"):
            result = merge_group(place, attempt, group)
    except MergeflowError as error:
        return Failed(name=type(error).__name__, message=str(error))
    assert result is not None  # it waits where another worker is at the same group
    return Completed(
        message=f"{result.computed} tensors in {result.seconds:.1f} s on {result.worker}"
    )
