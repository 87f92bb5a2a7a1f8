"""An evaluation that ends oddly: the candidate falls back, a baseline ends the run, nothing stays.

Task code runs in the evaluation's process. A marker file tells it what to do there, so that base
and experts can be evaluated soundly first and the merged checkpoint alone meets the fault.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator

import pytest
import yaml
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from flows.model_zoo import Zoo
from flows.stack.prefect_session import PrefectSession
from merge_core.homes.home import Home
from tests.flows.test_merge import Bench, champion_digest, markdown_of
from tests.support.processes import is_alive

FAULTS = {
    "os.kill(os.getpid(), 9)": ("was killed from outside", "settings.batch_size"),
    "os.kill(os.getpid(), 11)": ("crashed in compiled code", "device: cpu"),
    "os.kill(os.getpid(), 6)": ("gave up (abort)", "the log ends in the reason"),
    "next(iter(()))": ("ran out of documents (StopIteration)", "has enough documents"),
    "{}['answer']": ("failed: KeyError: 'answer'", "a field that a document does not have"),
    "raise OSError(28, os.strerror(28))": ("the disk is full, or has no inodes", "df -i"),
    "os._exit(3)": ("ended with exit status 3 and no result", "the end of the log says where"),
    "raise MemoryError": ("failed: MemoryError", "settings.batch_size"),
}
"""What the task code does, what is said of it, and what the mend names."""

HELPER = """
import os, pathlib, subprocess
def prepare(docs):
    marker = pathlib.Path({marker!r})
    if marker.exists():
        sleeper = "import os, time; os.setsid(); time.sleep(600)"
        child = subprocess.Popen([{python!r}, "-c", sleeper], start_new_session=True)
        marker.with_name("daemon").write_text(str(child.pid))
        exec(marker.read_text())
    return docs
"""


@pytest.fixture(scope="module")
def shared(tiny_zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    directory = tmp_path_factory.mktemp("dying")
    shutil.copytree(tiny_zoo.suite, directory / "suite")
    suite = yaml.safe_load((directory / "suite" / "suite.yaml").read_text())
    task = next(task for task in suite["tasks"] if task["task"].endswith("bpb"))
    suite["tasks"] = [task]
    suite["settings"] = suite.get("settings", {}) | {"limit": 20}
    (directory / "suite" / "suite.yaml").write_text(yaml.safe_dump(suite))
    tasks = directory / "suite" / suite["include"]
    helper = HELPER.format(marker=str(directory / "fault"), python=sys.executable)
    (tasks / "helper.py").write_text(helper)
    file = tasks / f"{task['task']}.yaml"
    file.write_text(file.read_text() + "process_docs: !function helper.prepare\n")
    return Bench(Home(directory / "home"), tiny_zoo, directory)


@pytest.fixture
def bench(
    shared: Bench, prefect: PrefectSession, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    monkeypatch.setenv("MERGEFLOW_HOME", str(shared.home.path))
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: str(shared.home.cache)}):
        if shared.first is None:
            shared.first = shared.outcome(shared.pipeline())
        yield shared
    (shared.directory / "fault").unlink(missing_ok=True)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, marks=[] if "11" in fault else [pytest.mark.slow], id=fault)
        for fault in FAULTS
    ],
)
@pytest.mark.slow
def test_a_candidate_whose_evaluation_ends_oddly_falls_back(
    bench: Bench, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    said, mend = FAULTS[fault]
    (bench.directory / "fault").write_text(fault)
    weight = 0.3 + 0.01 * list(FAULTS).index(fault)
    state = bench.run(bench.pipeline(weight=weight))
    outcome = state.result()
    assert (outcome.state, outcome.decision.verdict) == ("FellBack", "fell_back")
    (reason,) = outcome.decision.reasons
    assert reason.startswith("the merged checkpoint could not be evaluated: lm-eval")
    assert said in reason
    assert mend in caplog.text
    assert outcome.serve_digest == outcome.base.digest
    assert reason in markdown_of(state)["zoo-decision"]
    assert champion_digest(bench.home) == outcome.registration.champion.digest
    if os.uname().sysname == "Linux":
        assert not is_alive(int((bench.directory / "daemon").read_text()))
    assert list(bench.home.scratch.iterdir()) == []
    assert list(bench.home.logs.glob("evaluate-*.log")), "the log is kept"
    (bench.directory / "fault").unlink()
    again = bench.outcome(bench.pipeline(weight=weight))
    assert again.decision.comparisons, "the next run works"


@pytest.mark.slow
def test_a_baseline_whose_evaluation_ends_oddly_ends_the_run(bench: Bench) -> None:
    champion = champion_digest(bench.home)
    (bench.directory / "fault").write_text("os.kill(os.getpid(), 11)")
    suite = bench.directory / "suite" / "suite.yaml"
    before = suite.read_text()
    suite.write_text(before.replace("limit: 20", "limit: 21"))  # nothing is known of it yet
    try:
        state = bench.run(bench.pipeline())
    finally:
        suite.write_text(before)
    assert state.is_failed()
    assert "crashed in compiled code" in str(state.message)
    assert "what to do: the log ends in the place" in str(state.message)
    assert champion_digest(bench.home) == champion
    assert list(bench.home.scratch.iterdir()) == []
