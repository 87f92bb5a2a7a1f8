"""The system's Chromium, if there is one, and how large its page is."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.stack import RunningStack

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ViewportSize

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
SECONDS = 60_000
"""How long a page may take to show something, in milliseconds."""
VIEW: ViewportSize = {"width": 1280, "height": 1000}


@contextlib.contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """A headless browser; the test is skipped, with the reason, where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    quiet = ("quic", "gpu", "background-networking", "component-update", "sync", "extensions")
    switches = ["--no-sandbox", "--no-first-run", *(f"--disable-{each}" for each in quiet)]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*switches, *arguments])
        yield browser
        browser.close()


def links(stack: RunningStack) -> dict[str, str]:
    """The links that sign in, by the server's name."""
    lines = (stack.home / "stack" / "links").read_text().splitlines()
    return dict(line.split() for line in lines)


def newest_run(stack: RunningStack, flow: str = "merge") -> dict[str, Any]:
    """The run of a flow that was started last."""
    wanted = {
        "flows": {"name": {"any_": [flow]}},
        "sort": "EXPECTED_START_TIME_DESC",
        "limit": 1,
    }
    (run,) = stack.prefect("/flow_runs/filter", wanted)
    return dict(run)


def artifacts_of(stack: RunningStack, run: str) -> dict[str, dict[str, Any]]:
    """What is on the page of a run, by its key; of several versions the latest."""
    wanted = {"flow_runs": {"id": {"any_": [run]}}, "sort": "CREATED_DESC", "limit": 200}
    found = stack.prefect("/artifacts/filter", wanted)
    return {each["key"]: dict(each) for each in reversed(found)}


def artifact_page(stack: RunningStack, artifact: dict[str, Any]) -> str:
    """Address of the page of one artifact."""
    return f"http://127.0.0.1:{stack.prefect_port}/v2/artifacts/artifact/{artifact['id']}"
