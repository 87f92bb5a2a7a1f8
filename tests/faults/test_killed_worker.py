"""Merges whose groups are computed by several processes, and what happens when some of them die."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from merge_core.errors import StepError
from merge_core.records import SourceCheckpoint
from tasks.processes.merge import Processes
from tests.support.processes import is_alive, wait_until
from tests.support.scale_out_cases import (
    Killer,
    Observed,
    check_little_was_redone,
    kill_process,
    run_merge,
    sums,
    write_zoo,
)

pytestmark = pytest.mark.slow

CONDUCTOR = """
import sys
from pathlib import Path
from merge_core.files.digests import DigestMemo
from merge_core.checkpoints.sources import describe_source
from tasks.processes.merge import Processes
from tests.support.scale_out_cases import run_merge
root, *models = sys.argv[1:]
zoo = {model: describe_source(model, Path(model), DigestMemo(None)) for model in models}
run_merge(zoo, Path(root) / "out", Processes(2, Path(root) / "logs"))
"""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SourceCheckpoint]:
    return write_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def alone(
    zoo: dict[str, SourceCheckpoint], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """sha256 of every file of the merge, computed in this process."""
    out = tmp_path_factory.mktemp("alone") / "out"
    run_merge(zoo, out)
    return sums(out)


def test_two_processes_one_of_them_killed_give_the_same_bytes_and_redo_little(
    zoo: dict[str, SourceCheckpoint], alone: dict[str, str], tmp_path: Path
) -> None:
    killer = Killer(tmp_path, kill_process)
    killer.start()
    observed = Observed(Processes(2, tmp_path / "logs"))
    run_merge(zoo, tmp_path / "together", observed)
    assert sums(tmp_path / "together") == alone
    check_little_was_redone(observed, killer.killed_in)
    assert list((tmp_path / "logs").iterdir()) == []


def test_processes_that_die_again_and_again_end_in_an_error_that_names_the_log(
    zoo: dict[str, SourceCheckpoint],
    alone: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'tasks.processes.merge_worker' in sys.orig_argv:\n"
        "    print('out of luck', flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(StepError, match="worker processes died before its first group") as caught:
        run_merge(zoo, tmp_path / "out", Processes(2, tmp_path / "logs"))
    assert "exit status -9" in str(caught.value)
    assert "out of luck" in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert "use fewer processes" in str(caught.value.mend)
    (tmp_path / "sitecustomize.py").unlink()  # there is memory now
    run_merge(zoo, tmp_path / "out", Processes(2, tmp_path / "logs"))
    assert sums(tmp_path / "out") == alone


@pytest.mark.slow
def test_processes_end_with_the_one_that_conducts_the_merge(
    zoo: dict[str, SourceCheckpoint], alone: dict[str, str], tmp_path: Path
) -> None:
    child = subprocess.Popen([sys.executable, "-c", CONDUCTOR, str(tmp_path), *zoo])
    journals = (tmp_path / ".out.mergeflow").glob
    assert wait_until(lambda: any(journals("groups/*/*.journal")), 120)
    workers = psutil.Process(child.pid).children(recursive=True)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert workers
    assert wait_until(lambda: not any(is_alive(worker.pid) for worker in workers), 20)
    assert not (tmp_path / "out").exists()
    run_merge(zoo, tmp_path / "out")
    assert sums(tmp_path / "out") == alone
