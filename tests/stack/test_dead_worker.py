"""A worker that dies with its run: noticed by `mergeflow up`, or by Prefect when nobody else looks.

Not part of `make test`: `make stack`.
"""

from __future__ import annotations

import signal

import pytest

from flows.model_zoo import Zoo
from tests.support.processes import wait_until
from tests.support.stack import LENIENT, RunningStack, form, merge_from_the_form

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_up_starts_the_worker_again_and_ends_the_run_that_died_with_it(
    stack: RunningStack, tiny_zoo: Zoo
) -> None:
    run = start_one_that_waits(stack, tiny_zoo)
    kill_worker_and_run(stack)
    assert wait_until(lambda: stack.state(run)["type"] == "CRASHED", 60)
    assert "start it again, it resumes" in stack.state(run)["message"]
    assert wait_until(lambda: "ended with its worker" in stack.output, 10)
    assert "the worker had ended and is started again" in stack.output
    assert wait_until(lambda: not stack.prefect("/flow_runs/filter", PAUSED), 10), "its question"


def test_its_place_is_free_and_the_new_worker_carries_out_the_next_run(
    stack: RunningStack, tiny_zoo: Zoo
) -> None:
    merge_from_the_form(stack, tiny_zoo)


def test_prefect_finds_a_dead_run_by_its_heartbeat_when_nobody_else_looks(
    stack: RunningStack, tiny_zoo: Zoo
) -> None:
    run = start_one_that_waits(stack, tiny_zoo, weight=0.4)
    assert stack.process is not None
    stack.process.send_signal(signal.SIGSTOP)
    try:
        kill_worker_and_run(stack)
        assert wait_until(lambda: stack.state(run)["type"] == "CRASHED", 480)
        assert stack.state(run)["message"].startswith("No heartbeat for five minutes.")
    finally:
        stack.process.send_signal(signal.SIGCONT)
    assert wait_until(lambda: stack.call("status").returncode == 0, 60)


PAUSED = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}


def start_one_that_waits(stack: RunningStack, zoo: Zoo, weight: float = 0.45) -> str:
    """Start a merge that is at work for as long as nobody answers its question."""
    values = form(zoo, promote=LENIENT | {"approve_within": "1h"})
    values["merge"]["models"][0]["weight"] = weight
    before = stack.prefect("/flow_runs/filter", PAUSED)
    run = stack.start_run("merge/merge", values)
    assert wait_until(lambda: len(stack.prefect("/flow_runs/filter", PAUSED)) > len(before), 300)
    return run


def kill_worker_and_run(stack: RunningStack) -> None:
    """`kill -9` to the worker and everything that it has started."""
    workers = [each for each in stack.processes() if "worker" in each.cmdline()]
    family = {child for worker in workers for child in worker.children(recursive=True)}
    assert family, "the run has processes of its own"
    for process in {*workers, *family}:
        process.kill()
