"""A merge from the browser: the form, the run's page, the reports, the model in MLflow.

Needs Chromium and Playwright; skipped with a reason where there is none. `make stack` runs it.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.support.browser import VIEW, artifact_page, artifacts_of, links, newest_run
from tests.support.stack import RunningStack, ending

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def open_form(page: Page, stack: RunningStack, title: str) -> None:
    """From the first page, as somebody who has just signed in."""
    page.goto(f"http://127.0.0.1:{stack.prefect_port}/")
    page.get_by_role("link", name=title, exact=True).click()
    page.get_by_label("Name", exact=True).wait_for()


def fill(page: Page) -> None:
    page.get_by_label("Name", exact=True).fill("zoo")
    page.get_by_label("Base model").fill("zoo/base")
    for index, model in enumerate(("zoo/code-expert", "zoo/prose-expert")):
        page.get_by_label("Model", exact=True).nth(index).fill(model)
        page.get_by_label("Weight", exact=True).nth(index).fill("0.5")
    page.get_by_label(re.compile("^Or a suite of your own")).fill("suite")
    page.get_by_label(re.compile("^Former gate: largest regression")).fill("0.1")
    page.get_by_label(re.compile("^Former gate: smallest gain")).fill("-0.1")
    page.get_by_label(re.compile("^Registered model")).fill("zoo")


def is_drawn(page: Page) -> bool:
    """Whether the graph of a run shows steps that are done, in green."""
    picture = Image.open(io.BytesIO(page.locator("canvas").first.screenshot())).convert("RGB")
    colours = picture.getcolors(maxcolors=1 << 24) or []
    green = sum(count for count, (r, g, b) in colours if g > max(r, b) + 50)
    return green > 500


def test_the_first_page_of_either_server_leads_to_the_forms(
    page: Page, stack: RunningStack, images: Path
) -> None:
    page.goto(links(stack)["MLflow"])
    page.get_by_role("link", name="The forms").click()
    forms = page.locator("#forms").get_by_role("link")
    page.get_by_role("link", name="TIES", exact=True).wait_for()
    assert forms.all_inner_texts() == [
        *("Average", "Task arithmetic", "TIES", "DARE", "SLERP", "Stack layers", "A recipe"),
        *("Search", "Audit", "Any method"),
    ]
    page.screenshot(path=images / "ui-start.png")
    printed = re.findall(r"^form \S+ +(http\S+/run)$", stack.output, re.MULTILINE)
    led_to = [link.evaluate("link => link.href") for link in forms.all()]
    assert sorted(printed) == sorted(led_to)


def test_a_form_asks_for_its_own_and_says_what_has_to_be_there(
    page: Page, stack: RunningStack, images: Path
) -> None:
    open_form(page, stack, "TIES")
    assert page.get_by_label("Density", exact=True).input_value() == "0.3"
    assert page.get_by_text("Density (Optional)").count() == 0
    assert page.get_by_text("Lambda (Optional)").count() == 1
    assert page.get_by_text(re.compile("^(Position t|Gamma|Method)")).count() == 0
    page.set_viewport_size({"width": 1280, "height": 2600})  # the form scrolls in a frame
    page.screenshot(path=images / "ui-form.png")
    page.set_viewport_size(VIEW)


def test_a_mistake_is_shown_at_its_field_and_starts_nothing(
    page: Page, stack: RunningStack, images: Path
) -> None:
    before = stack.prefect("/flow_runs/count", {})
    page.get_by_label("Density", exact=True).fill("30")
    page.get_by_role("button", name="Submit").click()
    said = page.get_by_text("'a share between 0 and 1' was expected")
    said.first.wait_for()
    for sentence in ("'letters, digits, dot, dash and underscore", "'a directory such as"):
        assert page.get_by_text(sentence).count() > 0
    assert page.get_by_text(re.compile(r"does not match|non-empty|\^\[")).count() == 0
    said.first.scroll_into_view_if_needed()
    page.screenshot(path=images / "ui-mistake.png")
    assert stack.prefect("/flow_runs/count", {}) == before


def test_any_method_can_be_chosen_in_the_longest_form(page: Page, stack: RunningStack) -> None:
    open_form(page, stack, "Any method")
    page.locator("button", has_text="task_arithmetic").click()
    page.get_by_role("option", name="ties", exact=True).wait_for()
    assert page.get_by_role("option").count() >= 30
    page.keyboard.press("Escape")


def test_the_form_starts_a_merge_that_ends_promoted(
    page: Page, stack: RunningStack, images: Path
) -> None:
    before = stack.prefect("/flow_runs/count", {})
    open_form(page, stack, "Task arithmetic")
    fill(page)
    page.get_by_role("button", name="Submit").click()
    page.wait_for_function("() => !location.pathname.endsWith('/run')")
    assert stack.prefect("/flow_runs/count", {}) == before + 1
    assert newest_run(stack)["name"] == "zoo", "before a worker has it"
    run = stack.finish(newest_run(stack)["id"])
    assert ending(run) == "Promoted", run["state"]["message"]
    page.goto(f"http://127.0.0.1:{stack.prefect_port}/v2/runs/flow-run/{run['id']}")
    page.get_by_text(run["name"]).first.wait_for()
    page.get_by_text("Completed").first.wait_for()
    page.get_by_text("task_arithmetic").first.wait_for()
    page.wait_for_timeout(3000)
    page.screenshot(path=images / "ui-run.png")
    assert is_drawn(page), "the graph of the run's steps"


def test_the_runs_page_has_progress_reports_and_links(stack: RunningStack) -> None:
    found = artifacts_of(stack, newest_run(stack)["id"])
    reports = {"zoo-compatibility", "zoo-task-vectors", "zoo-decision", "zoo-lineage"}
    assert reports | {"zoo-mlflow-run", "zoo-mlflow-version"} <= set(found)
    assert "data:image/png;base64," in found["zoo-task-vectors"]["data"]
    progress = {key: each["data"] for key, each in found.items() if each["type"] == "progress"}
    assert set(progress.values()) == {100.0}, progress
    # A step that is done within two seconds leaves none: the first evaluation starts lm-eval.
    assert any(key.startswith("evaluate-") for key in progress)


def test_a_good_merge_is_found_by_the_lists_filter_for_completed(
    page: Page, stack: RunningStack
) -> None:
    run = newest_run(stack)
    for state, found in (("Completed", 1), ("Failed", 0)):
        page.goto(f"http://127.0.0.1:{stack.prefect_port}/v2/runs?state={state}")
        page.get_by_text(f"{found} Flow run").first.wait_for()
        assert page.get_by_role("link", name=run["name"]).count() == found
    page.goto(f"http://127.0.0.1:{stack.prefect_port}/v2/runs")
    page.get_by_text("promoted", exact=True).first.wait_for()


def test_the_compatibility_tables_fit_the_page(
    page: Page, stack: RunningStack, images: Path
) -> None:
    report = artifacts_of(stack, newest_run(stack)["id"])["zoo-compatibility"]
    page.goto(artifact_page(stack, report))
    page.get_by_text("fine-tune of the base").first.wait_for()
    page.screenshot(path=images / "ui-compatibility.png")
    ends = "tables => tables.map(table => table.getBoundingClientRect().right)"
    edges = page.locator("table").evaluate_all(ends)
    assert len(edges) == 2
    assert max(edges) <= VIEW["width"]
    hidden = "ts => ts.map(t => t.scrollWidth - t.parentElement.clientWidth)"
    assert max(page.locator("table").evaluate_all(hidden)) <= 0


def test_the_decision_can_be_read_on_the_artifact_page(
    page: Page, stack: RunningStack, images: Path
) -> None:
    decision = artifacts_of(stack, newest_run(stack)["id"])["zoo-decision"]
    page.goto(artifact_page(stack, decision))
    page.get_by_text("zoo_code_bpb").first.wait_for()
    page.get_by_text("prose-expert").first.wait_for()
    page.screenshot(path=images / "ui-decision.png")


def test_task_vectors_and_lineage_are_drawn(page: Page, stack: RunningStack, images: Path) -> None:
    found = artifacts_of(stack, newest_run(stack)["id"])
    page.goto(artifact_page(stack, found["zoo-task-vectors"]))
    plot = page.get_by_role("img", name="task vectors by layer")
    plot.wait_for()
    assert plot.evaluate("image => image.naturalWidth") > 300
    page.goto(artifact_page(stack, found["zoo-lineage"]))
    page.locator("svg", has_text="task_arithmetic").first.wait_for()
    page.wait_for_timeout(1000)
    page.screenshot(path=images / "ui-lineage.png")


def test_the_links_of_a_run_lead_to_its_record_and_its_version_in_mlflow(
    page: Page, stack: RunningStack
) -> None:
    found = artifacts_of(stack, newest_run(stack)["id"])
    for key, shown in (
        ("zoo-mlflow-run", newest_run(stack)["name"]),
        ("zoo-mlflow-version", "zoo"),
    ):
        page.goto(artifact_page(stack, found[key]))
        link = page.get_by_role("link", name=re.compile("in MLflow"))
        address = link.get_attribute("href")
        assert address is not None
        assert address.startswith(f"http://127.0.0.1:{stack.mlflow_port}/#/")
        page.goto(address)
        page.get_by_text(shown).first.wait_for()
        assert page.get_by_text("Page Not Found").count() == 0
        assert "workflowType=machine_learning" in page.url, "not the pages for chats"


def test_the_form_of_an_audit_ends_in_a_page_that_says_all_holds(
    page: Page, stack: RunningStack, images: Path
) -> None:
    page.goto(f"http://127.0.0.1:{stack.prefect_port}/")
    page.get_by_role("link", name="Audit", exact=True).click()
    page.get_by_label(re.compile("^Version")).fill("models:/zoo@champion")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_function("() => !location.pathname.endsWith('/run')")
    run = stack.finish(newest_run(stack, "audit")["id"])
    assert ending(run) == "Holds", run["state"]["message"]
    page.goto(artifact_page(stack, artifacts_of(stack, run["id"])["zoo-champion-audit"]))
    page.get_by_text("decision").first.wait_for()
    page.screenshot(path=images / "ui-audit.png")


def test_the_run_list_reads_well(page: Page, stack: RunningStack, images: Path) -> None:
    page.goto(f"http://127.0.0.1:{stack.prefect_port}/v2/runs")
    page.get_by_text(newest_run(stack)["name"]).first.wait_for()
    page.wait_for_timeout(2000)
    page.screenshot(path=images / "ui-runs.png")


def test_the_model_is_in_mlflow_with_the_champion_alias(
    page: Page, stack: RunningStack, images: Path
) -> None:
    page.goto(f"http://127.0.0.1:{stack.mlflow_port}/#/models/zoo")
    page.get_by_text("champion").first.wait_for()
    page.get_by_text("Version 2").first.wait_for()
    page.wait_for_timeout(1000)
    page.screenshot(path=images / "ui-model.png")
