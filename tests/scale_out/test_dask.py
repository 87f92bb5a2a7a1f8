"""Merges on a real Dask cluster: a scheduler and two workers, each a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.fanout.dask_cluster import DaskCluster
from flows.stack.prefect_session import PrefectSession
from merge_core.errors import NonFiniteError, StepError
from merge_core.homes.home import Home
from merge_core.records import SourceCheckpoint
from tests.support.processes import wait_until
from tests.support.scale_out_cases import (
    Killer,
    Observed,
    check_little_was_redone,
    kill_process,
    merge_as_configured,
    run_merge,
    sums,
    write_zoo,
)

pytest.importorskip("prefect_dask", reason="prefect-dask is not installed: pip install '.[dask]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """The address of a scheduler with two workers of one thread."""
    address = tmp_path / "scheduler.json"
    local = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(address)]
    worker = ["worker", *local, "--nthreads", "1", "--no-nanny"]
    with (tmp_path / "dask.log").open("wb") as log:
        children = [
            subprocess.Popen([sys.executable, "-m", "dask", *arguments], stdout=log, stderr=log)
            for arguments in (["scheduler", *local, "--port", "0"], worker, worker)
        ]
        try:
            assert wait_until(address.exists, 60)
            yield json.loads(address.read_text())["address"]
        finally:
            for child in children:
                child.kill()
                child.wait()


def test_two_dask_workers_one_of_them_killed_give_the_same_bytes_and_redo_little(
    zoo: dict[str, SourceCheckpoint],
    alone: dict[str, str],
    cluster: str,
    prefect_here: PrefectSession,
    tmp_path: Path,
) -> None:
    killer = Killer(tmp_path, kill_process)
    killer.start()
    observed = Observed(DaskCluster(cluster))
    run_merge(zoo, tmp_path / "out", observed)
    assert sums(tmp_path / "out") == alone
    check_little_was_redone(observed, killer.killed_in)


def test_a_pipeline_may_ask_for_a_local_cluster(
    zoo: dict[str, SourceCheckpoint],
    alone: dict[str, str],
    prefect_here: PrefectSession,
    home: Home,
) -> None:
    merged = merge_as_configured(zoo, home, {"dask": "local"})
    assert sums(Path(merged.path)) == alone


def test_an_error_of_a_dask_worker_is_the_merges_error(
    cluster: str, prefect_here: PrefectSession, tmp_path: Path
) -> None:
    broken = write_zoo(tmp_path / "zoo", broken=True)
    with pytest.raises(NonFiniteError, match=r"layers\.7\.weight holds NaN"):
        run_merge(broken, tmp_path / "out", DaskCluster(cluster), scope="tensor")
    assert not (tmp_path / "out").exists()


def test_a_scheduler_that_is_not_there_is_told(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    with pytest.raises(StepError, match="there is no Dask scheduler"):
        run_merge(zoo, tmp_path / "out", DaskCluster("tcp://127.0.0.1:1"))
