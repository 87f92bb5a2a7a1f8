"""A stack for each module that asks for one, with a quick suite and the models in its directory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import yaml

from examples.model_zoo import Zoo
from tests.support.stack import RunningStack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, tiny_zoo: Zoo) -> Iterator[RunningStack]:
    """`mergeflow up`, ready; nothing of it is left after the tests."""
    directory = tmp_path_factory.mktemp("stack")
    shutil.copytree(tiny_zoo.suite, directory / "suite")
    suite = yaml.safe_load((directory / "suite" / "suite.yaml").read_text())
    suite["tasks"] = [task for task in suite["tasks"] if task["task"].endswith("bpb")]
    (directory / "suite" / "suite.yaml").write_text(yaml.safe_dump(suite))
    (directory / "zoo").symlink_to(tiny_zoo.directory)
    stack = RunningStack(home=directory / "home", directory=directory).up()
    try:
        yield stack
    finally:
        if stack.process is not None and stack.process.poll() is None:
            stack.interrupt()
        for process in stack.processes():
            process.kill()
