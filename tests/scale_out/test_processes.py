"""Merges by processes of this machine, as the merge step of a pipeline. See also
`tests/faults/test_killed_worker.py`, where they are killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.stack.prefect_session import PrefectSession
from merge_core.errors import NonFiniteError
from merge_core.homes.home import Home
from merge_core.records import SourceCheckpoint
from tasks.processes.merge import Processes
from tests.support.scale_out_cases import merge_as_configured, run_merge, sums, write_zoo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_pipeline_may_ask_for_processes(
    zoo: dict[str, SourceCheckpoint],
    alone: dict[str, str],
    prefect_here: PrefectSession,
    home: Home,
) -> None:
    merged = merge_as_configured(zoo, home, {"processes": 2})
    assert sums(Path(merged.path)) == alone


def test_an_error_of_a_process_is_the_merges_error(tmp_path: Path) -> None:
    processes = Processes(2, tmp_path / "logs")
    broken = write_zoo(tmp_path / "zoo", broken=True)
    with pytest.raises(NonFiniteError, match=r"layers\.7\.weight holds NaN"):
        run_merge(broken, tmp_path / "out", processes, scope="tensor")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.mergeflow").exists()
