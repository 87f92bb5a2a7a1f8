"""Merges by the workers of a real Prefect work pool, against a real Prefect server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prefect import get_client
from prefect.client.schemas.actions import WorkPoolCreate

from flows.fanout.work_pool import WorkPool
from flows.stack.prefect_session import PrefectSession
from merge_core.errors import NonFiniteError, StepError
from merge_core.homes.home import Home
from merge_core.records import SourceCheckpoint
from tests.support.scale_out_cases import (
    Killer,
    Observed,
    check_little_was_redone,
    merge_as_configured,
    run_merge,
    sums,
    write_zoo,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

POOL = "scale-out"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def workers(
    prefect_here: PrefectSession, tmp_path: Path
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two workers that serve a pool, each leading a process group of its own."""
    with get_client(sync_client=True) as client:
        if POOL not in [pool.name for pool in client.read_work_pools()]:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PREFECT_API_URL": prefect_here.api_url,
        "PREFECT_HOME": str(tmp_path / "worker"),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--limit", "1"]
    with (tmp_path / "workers.log").open("wb") as log:
        children = [
            subprocess.Popen(
                [*command, "--name", f"worker-{number}"],
                env=environment,
                cwd=tmp_path,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            for number in range(2)
        ]
        try:
            yield children
        finally:
            for child in children:
                _kill_with_all_below(child.pid)
                child.wait()


def _kill_with_all_below(pid: int) -> None:
    """What a machine that loses its power does to a worker and its flow runs."""
    try:
        below = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for process in (psutil.Process(pid), *below):
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


def test_two_workers_one_of_them_killed_give_the_same_bytes_and_redo_little(
    zoo: dict[str, SourceCheckpoint],
    alone: dict[str, str],
    workers: list[subprocess.Popen[bytes]],
    tmp_path: Path,
) -> None:
    def kill_worker_of(pid: int) -> None:
        above = {parent.pid for parent in psutil.Process(pid).parents()}
        (worker,) = [worker for worker in workers if worker.pid in above]
        _kill_with_all_below(worker.pid)

    killer = Killer(tmp_path, kill_worker_of)
    killer.start()
    observed = Observed(WorkPool(POOL))
    run_merge(zoo, tmp_path / "out", observed)
    assert sums(tmp_path / "out") == alone
    check_little_was_redone(observed, killer.killed_in)
    assert [worker.poll() for worker in workers].count(None) == 1


def test_a_pipeline_may_ask_for_a_work_pool(
    zoo: dict[str, SourceCheckpoint],
    alone: dict[str, str],
    workers: list[subprocess.Popen[bytes]],
    home: Home,
) -> None:
    merged = merge_as_configured(zoo, home, {"work_pool": POOL})
    assert sums(Path(merged.path)) == alone


def test_an_error_of_a_worker_is_the_merges_error(
    workers: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    broken = write_zoo(tmp_path / "zoo", broken=True)
    with pytest.raises(NonFiniteError, match=r"layers\.7\.weight holds NaN"):
        run_merge(broken, tmp_path / "out", WorkPool(POOL), scope="tensor")
    assert not (tmp_path / "out").exists()


def test_a_pool_that_is_not_there_is_told_with_those_that_are(
    zoo: dict[str, SourceCheckpoint], workers: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    with pytest.raises(StepError, match="no work pool 'scale-ot'; did you mean 'scale-out'"):
        run_merge(zoo, tmp_path / "out", WorkPool("scale-ot"))
