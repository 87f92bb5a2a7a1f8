"""The steps that find a training run's checkpoints and measure their path, as Prefect tasks.

What a run is, and which of its checkpoints are chosen, is in `tasks.averaging.trajectory`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from merge_core.homes.home import Home
from merge_core.operations.trajectory.path import PathReport, measure_path, path_key
from merge_core.operations.trajectory.records import Trajectory
from merge_core.operations.trajectory.select import Choice
from merge_core.records import SourceCheckpoint
from tasks.averaging.trajectory import TrainingRun, find_trajectory
from tasks.caching.content_task import content_task
from tasks.hub_answers import HubUnreachableError
from tasks.progress import prefect_progress
from tasks.retries import only_on


@task(
    name="find",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=3,
    retry_delay_seconds=[2, 10, 30],
    retry_condition_fn=only_on(HubUnreachableError),
)
def find_task(
    training: TrainingRun, choice: Choice, home: Path, beside: Path | None = None
) -> Trajectory:
    """`find_trajectory` as a step. Never cached: a training run moves on."""
    return find_trajectory(training, choice, Home(home), beside, prefect_progress("find"))


def _fits(report: PathReport, /, sources: Sequence[SourceCheckpoint], **_others: object) -> bool:
    return len(report.distances) == len(sources)


@content_task("path", version=1, key=path_key, fits=_fits, retries=0)
def path_task(sources: Sequence[SourceCheckpoint], names: Sequence[str]) -> PathReport:
    """`measure_path` as a cached step."""
    return measure_path(sources, names)
