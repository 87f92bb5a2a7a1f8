"""The data directory of a stack, moved to another place: everything is there again.

Not part of `make test`: `make stack`.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from flows.model_zoo import Zoo
from tests.support.stack import RunningStack, ending, form, merge_from_the_form, versions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

LOAD = """
import sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
print(mlflow.pyfunc.load_model("models:/zoo@champion").predict(["def add("])[0])
"""


def test_a_stack_goes_on_where_its_directory_was_moved_to(
    stack: RunningStack, tiny_zoo: Zoo
) -> None:
    merge_from_the_form(stack, tiny_zoo)
    before = versions(stack)
    assert stack.interrupt() == 0
    elsewhere = stack.directory / "an other place"
    stack.home.rename(elsewhere)
    stack.home = elsewhere
    stack.up()
    assert {each["version"] for each in versions(stack)} == {each["version"] for each in before}
    assert json.loads(stack.call("status", "--json").stdout)["healthy"]
    report = {"artifacts": {"key": {"any_": ["zoo-decision"]}}}
    assert stack.prefect("/artifacts/filter", report)


def test_the_same_merge_is_found_and_the_champion_can_be_loaded(
    stack: RunningStack, tiny_zoo: Zoo
) -> None:
    run = stack.finish(stack.start_run("merge/merge", form(tiny_zoo)))
    assert ending(run) == "Promoted", run["state"]["message"]
    assert len(versions(stack)) == 2, "no version twice"
    address = f"http://127.0.0.1:{stack.mlflow_port}"
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD, address],
        env=stack.environment | stack.logged_in,
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.strip()
