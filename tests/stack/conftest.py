"""A stack for each module that asks for one, with a quick suite and the models in its directory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from examples.model_zoo import Zoo
from tests.support.stack import RunningStack, lay_out


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, tiny_zoo: Zoo) -> Iterator[RunningStack]:
    """`mergeflow up`, ready; nothing of it is left after the tests."""
    directory = tmp_path_factory.mktemp("stack")
    lay_out(directory, tiny_zoo)
    stack = RunningStack(home=directory / "home", directory=directory).up()
    try:
        yield stack
    finally:
        if stack.process is not None and stack.process.poll() is None:
            stack.interrupt()
        for process in stack.processes():
            process.kill()
