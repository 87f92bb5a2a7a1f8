"""The system's Chromium, if there is one, and how large its page is."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from tests.support.stack import RunningStack

if TYPE_CHECKING:
    from playwright.sync_api import ViewportSize

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
SECONDS = 60_000
"""How long a page may take to show something, in milliseconds."""
VIEW: ViewportSize = {"width": 1280, "height": 1000}


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
