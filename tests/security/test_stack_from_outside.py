"""`mergeflow up` in a directory of hostile files, at a terminal, with a network that refuses: no
process of the stack obeys a file there, and none calls anybody. Not part of `make test`.
"""

from __future__ import annotations

import contextlib
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.model_zoo import Zoo
from tests.security.test_nothing_leaves import nothing_left
from tests.support.outside import Outside, obeyed
from tests.support.processes import wait_until
from tests.support.stack import PROGRAM, START_SECONDS, RunningStack, form
from tests.support.terminals import terminal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@dataclass
class StackAtTerminal(RunningStack):
    """A stack whose environment is that of a user who has just logged in."""

    outside: Outside | None = None

    @property
    def environment(self) -> dict[str, str]:
        assert self.outside is not None
        return self.outside.environment | self.variables | {"MERGEFLOW_HOME": str(self.home)}


@pytest.fixture
def stack(outside: Outside, marker: Path, tmp_path: Path) -> Iterator[StackAtTerminal]:
    stack = StackAtTerminal(tmp_path / "home", outside.directory, outside=outside)
    ports = ["--prefect-port", str(stack.prefect_port), "--mlflow-port", str(stack.mlflow_port)]
    with terminal([PROGRAM, "up", *ports], outside.directory, stack.environment) as shown:
        shown.watch(START_SECONDS, until="Ctrl-C stops everything")
        yield stack
        shown.process.send_signal(signal.SIGINT)
        shown.watch(180)
        assert shown.process.wait(60) == 0, shown.text
    nothing_left(outside, shown.text)
    assert obeyed(marker) == ""


def test_a_stack_obeys_no_file_there_and_calls_nobody(
    stack: StackAtTerminal, outside: Outside, tiny_zoo: Zoo
) -> None:
    run = stack.finish(stack.start_run("merge/merge", form(tiny_zoo)))
    assert run["state"]["type"] == "COMPLETED", run["state"]["message"]
    # One that is cancelled: its worker looks for hooks of the flow.
    other = stack.start_run("merge/merge", form(tiny_zoo, name="other", suite="suite"))
    wait_until(lambda: stack.state(other)["type"] == "RUNNING", 120)
    stack.prefect(f"/flow_runs/{other}/set_state", {"state": {"type": "CANCELLING"}})
    assert stack.finish(other)["state"]["type"] in ("CANCELLED", "COMPLETED", "CRASHED")
    average = {"averaging": _averaging(outside)}
    averaged = stack.finish(stack.start_run("average-checkpoints/average-checkpoints", average))
    assert averaged["state"]["type"] == "COMPLETED", averaged["state"]["message"]
    # What the pages ask for that the servers would fetch.
    assert stack.prefect("/collections/views/aggregate-worker-metadata")["prefect"]["process"]
    for path in ("ui-telemetry", "gateway/supported-providers", "gateway/supported-models"):
        address = f"http://127.0.0.1:{stack.mlflow_port}/ajax-api/3.0/mlflow/{path}"
        with contextlib.suppress(urllib.error.HTTPError):  # it may ask who is there
            urllib.request.urlopen(address, timeout=60).read()
    status, said = outside.call("status")
    assert status in (0, 1), said


def _averaging(outside: Outside) -> dict[str, object]:
    return {
        "name": "mean",
        "training": {"run": "zoo/runs/prose", "marker": "trainer_state.json"},
        "choose": {"last": 2},
        "evaluate": {"suite": "suite", "experts": False},
        "promote": {"max_regression": 1.0, "min_gain": -1.0, "min_documents": 5},
        "register": {"model": "mean"},
    }
