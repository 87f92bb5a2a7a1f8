"""A merge's groups as flow runs of a Prefect work pool, on any machine that shares the storage."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, WorkPoolFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed
from prefect.types.entrypoint import EntrypointType

from flows.fanout.merge_group import merge_shard_group
from merge_core.distributed.job import Executor, MergeJob
from merge_core.distributed.worker import is_finished, is_held, workers_seen
from merge_core.errors import MergeflowError, StepError, did_you_mean, error_kind
from merge_core.text.plain import plain_log

_log = plain_log("mergeflow")

_POLL = 1.0
_MOST_RUNS = 4
"""Of one group; a group at which more workers were lost is not tried again."""
_STARTING = 120.0
"""Seconds that a run may take from a worker's hands to the group's lock."""
_GONE = 5.0
"""Seconds after which a run that has begun and does not hold the lock is dead."""
_NOBODY_SAYS = 30.0
_NOBODY = 1800.0
"""Seconds to wait for any worker to take up anything."""


class WorkPool(Executor):
    """Whoever serves a work pool. A run whose worker is gone is known by its group's free lock,
    which the kernel, or the file server, takes from a dead process; the group is given out again.
    """

    def __init__(self, pool: str) -> None:
        self._pool = pool

    def run(self, directory: Path, job: MergeJob) -> None:
        with get_client(sync_client=True) as client:
            _check_pool(client, self._pool)
            deployment = _deployed(self._pool)
            dispatch = _Dispatch(client, self._pool, deployment, directory, job)
            try:
                dispatch.run()
            except BaseException:
                dispatch.cancel()
                raise


@dataclass
class _Given:
    """A group that was given out."""

    run: UUID
    begun_before: int
    """Workers that had begun the group when this run was created."""
    attempts: int = 1
    since: float = 0.0
    """When its run was last seen to be alive; 0 while no worker has it."""


class _Dispatch:
    """The groups of one merge, on their way."""

    def __init__(
        self,
        client: SyncPrefectClient,
        pool: str,
        deployment: UUID,
        directory: Path,
        job: MergeJob,
    ) -> None:
        self._client = client
        self._pool = pool
        self._deployment = deployment
        self._directory = directory
        self._job = job
        self._given: dict[int, _Given] = {}
        self._last_sign = time.monotonic()
        self._told = False

    def run(self) -> None:
        """Give out every group that is not finished; return when all are."""
        for number in range(len(self._job.groups)):
            if not is_finished(self._directory, self._job, number):
                self._given[number] = self._give(number)
        while self._given:
            time.sleep(_POLL)
            runs = {run.id: run for run in self._read(given.run for given in self._given.values())}
            for number, given in list(self._given.items()):
                if given.run in runs and self._is_done(number, given, runs[given.run]):
                    del self._given[number]
            self._complain_if_nobody_works()

    def cancel(self) -> None:
        """Take back the groups that were given out."""
        for given in self._given.values():
            self._client.set_flow_run_state(given.run, Cancelled(), force=True)

    def _is_done(self, number: int, given: _Given, run: FlowRun) -> bool:
        kind = run.state_type
        if kind == StateType.COMPLETED and is_finished(self._directory, self._job, number):
            self._last_sign = time.monotonic()
            return True
        if kind == StateType.FAILED:
            assert run.state is not None
            said, *more = (run.state.message or "a worker failed").split("\n")
            raise error_kind(run.state.name)(said, details=more)
        if kind in (StateType.CANCELLED, StateType.CANCELLING):
            raise self._error(f"the run of group {number + 1}, {run.name}, was cancelled")
        if kind in (StateType.COMPLETED, StateType.CRASHED):
            self._again(number, given, run)
        elif kind in (StateType.RUNNING, StateType.PENDING):
            self._look_after(number, given, run)
        return False

    def _look_after(self, number: int, given: _Given, run: FlowRun) -> None:
        """Give a group out again when the worker that took it is gone."""
        now = time.monotonic()
        self._last_sign = now
        if not given.since or is_held(self._directory, self._job, number):
            given.since = now
        has_begun = workers_seen(self._directory, self._job, number) > given.begun_before
        patience = _GONE if has_begun else _STARTING
        if now - given.since > patience:
            self._client.set_flow_run_state(
                run.id, Crashed(message="its worker is gone"), force=True
            )
            self._again(number, given, run)

    def _again(self, number: int, given: _Given, run: FlowRun) -> None:
        if given.attempts == _MOST_RUNS:
            raise self._error(
                f"group {number + 1} of {len(self._job.groups)} was given to {_MOST_RUNS} workers,"
                f" and none finished it (the last run is {run.name})"
            )
        _log.warning(
            "the worker at group %d is gone (%s): giving it out again", number + 1, run.name
        )
        self._given[number] = self._give(number, given.attempts + 1)

    def _complain_if_nobody_works(self) -> None:
        silent = time.monotonic() - self._last_sign
        if silent > _NOBODY_SAYS and not self._told:
            self._told = True
            _log.warning("no worker of pool %s has taken up anything yet", self._pool)
        if silent > _NOBODY and self._given:
            raise self._error(f"no worker has taken up anything for {silent / 60:.0f} minutes")

    def _give(self, number: int, attempts: int = 1) -> _Given:
        begun_before = workers_seen(self._directory, self._job, number)
        total = len(self._job.groups)
        run = run_deployment(
            self._deployment,
            parameters={
                "directory": str(self._directory),
                "attempt": self._job.attempt,
                "group": number,
            },
            flow_run_name=f"{self._job.plan[:8]} group {number + 1} of {total}",
            timeout=0,
        )
        assert isinstance(run, FlowRun)  # a coroutine inside an event loop alone
        return _Given(run.id, begun_before, attempts)

    def _read(self, ids: Iterable[UUID]) -> list[FlowRun]:
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=list(ids)))
        return self._client.read_flow_runs(flow_run_filter=wanted)

    def _error(self, what: str) -> MergeflowError:
        return StepError(
            what,
            where=f"work pool {self._pool}",
            mend=f"look at its workers (prefect worker start --pool {self._pool}) and their limits,"
            " and run the same again: what is finished is kept",
        )


def _check_pool(client: SyncPrefectClient, name: str) -> None:
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        known = [pool.name for pool in client.read_work_pools(work_pool_filter=WorkPoolFilter())]
        raise StepError(
            f"this Prefect server has no work pool '{name}'; {did_you_mean(name, known)}",
            where="execution.scale_out.work_pool",
            mend="set PREFECT_API_URL to the server that the workers use, and create the pool:"
            f" prefect work-pool create --type process {name}",
        ) from None


def _deployed(pool: str) -> UUID:
    """The deployment by which workers of a pool find the flow: by its module, installed there."""
    # Both calls answer with a coroutine inside an event loop alone.
    deployment = merge_shard_group.to_deployment(
        name=pool, work_pool_name=pool, entrypoint_type=EntrypointType.MODULE_PATH
    )
    assert isinstance(deployment, RunnerDeployment)
    identity = deployment.apply()
    assert isinstance(identity, UUID)
    return identity
