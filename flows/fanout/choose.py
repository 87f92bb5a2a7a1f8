"""The choice of workers for a merge, from a pipeline's or a command's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge_core.distributed.job import Executor
from merge_core.homes.home import Home

if TYPE_CHECKING:
    from flows.settings.pipeline import ScaleOut


def executor_of(chosen: ScaleOut, home: Home) -> Executor | None:
    """The workers that were chosen; None for this process itself."""
    # Each brings libraries that the others do without.
    if chosen.processes is not None:
        from tasks.processes.merge import Processes

        return Processes(chosen.processes, home.logs)
    if chosen.work_pool is not None:
        from flows.fanout.work_pool import WorkPool

        return WorkPool(chosen.work_pool)
    if chosen.dask is not None:
        from flows.fanout.dask_cluster import DaskCluster

        return DaskCluster(chosen.dask)
    return None
