"""A stack for each module that asks for one, with a quick suite and the models in its directory; a
browser to look at it with, where there is one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flows.model_zoo import Zoo
from tests.support.browser import SECONDS, VIEW, chromium, links
from tests.support.stack import RunningStack, lay_out

if TYPE_CHECKING:
    from playwright.sync_api import Page


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


@pytest.fixture(scope="module")
def page(stack: RunningStack) -> Iterator[Page]:
    """A page of a headless browser that has signed in at both servers, and talks to nobody else."""
    with chromium() as browser:
        page = browser.new_page(viewport=VIEW)
        page.set_default_timeout(SECONDS)
        for link in links(stack).values():
            page.goto(link)
            page.wait_for_function("() => location.pathname !== '/sign-in'")
        yield page


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: `$MERGEFLOW_SCREENSHOTS` if it is set."""
    named = os.environ.get("MERGEFLOW_SCREENSHOTS")
    return Path(named) if named else tmp_path_factory.mktemp("images")
