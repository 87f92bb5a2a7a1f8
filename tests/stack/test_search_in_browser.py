"""A sweep from the browser: the form, its plot on the run's page, its trials in MLflow.

Needs Chromium and Playwright; skipped with a reason where there is none. `make stack` runs it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.stack.test_ui import open_form
from tests.support.browser import VIEW, artifact_page, artifacts_of, newest_run
from tests.support.stack import RunningStack, ending

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def fill(page: Page) -> None:
    page.get_by_label("Name", exact=True).fill("sweep")
    page.get_by_label("Base model").fill("zoo/base")
    for index, model in enumerate(("zoo/code-expert", "zoo/prose-expert")):
        page.get_by_label("Model", exact=True).nth(index).fill(model)
    page.get_by_label(re.compile("^Weight from")).fill("0.3")
    page.get_by_label(re.compile("^Weight to")).fill("0.5")
    page.get_by_label(re.compile("^Suite")).fill("suite")
    page.get_by_label(re.compile("^Registered model")).fill("sweep")


def test_a_sweep_is_started_from_the_form_and_seen_on_its_page_and_in_mlflow(
    page: Page, stack: RunningStack, images: Path
) -> None:
    open_form(page, stack, "Search")
    fill(page)
    page.set_viewport_size({"width": 1280, "height": 2000})  # the form scrolls in a frame
    page.screenshot(path=images / "ui-search-form.png")
    page.set_viewport_size(VIEW)
    page.get_by_role("button", name="Submit").click()
    page.wait_for_function("() => !location.pathname.endsWith('/run')")
    run = stack.finish(newest_run(stack, "search")["id"])
    assert ending(run) in ("Promoted", "Fell back", "Inconclusive"), run["state"]["message"]

    found = artifacts_of(stack, run["id"])
    page.goto(artifact_page(stack, found["sweep-search"]))
    plot = page.get_by_role("img", name="sweep")
    plot.wait_for()
    assert plot.evaluate("image => image.naturalWidth") > 300
    for alpha in ("0.3", "0.4", "0.5"):
        page.get_by_text(f"weight {alpha}").first.wait_for()
    page.wait_for_timeout(1000)
    page.screenshot(path=images / "ui-search.png")
    ends = "tables => tables.map(table => table.getBoundingClientRect().right)"
    assert max(page.locator("table").evaluate_all(ends)) <= VIEW["width"]

    experiment = stack.mlflow("/experiments/search", max_results="10")["experiments"]
    [own] = [each for each in experiment if each["name"] == "mergeflow"]
    page.goto(f"http://127.0.0.1:{stack.mlflow_port}/#/experiments/{own['experiment_id']}/runs")
    search = page.get_by_role("gridcell").filter(has_text="search sweep")
    search.get_by_role("button").first.click()  # what is nested below it
    for number in range(3):
        page.get_by_text(f"trial {number}").first.wait_for()
    page.wait_for_timeout(1000)
    page.screenshot(path=images / "ui-search-mlflow.png")
