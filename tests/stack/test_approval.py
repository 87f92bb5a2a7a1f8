"""A promotion that waits for a person: the form in the browser, and what happens without an answer.

One home; the tests follow each other. Not part of `make test`: `make stack`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from flows.approve import APPROVAL_FLOW
from flows.model_zoo import Zoo
from tests.support.browser import artifacts_of, newest_run
from tests.support.processes import wait_until
from tests.support.stack import LENIENT, RunningStack, ending, form

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_a_person_approves_in_the_browser(
    page: Page, stack: RunningStack, tiny_zoo: Zoo, images: Path
) -> None:
    run = start(stack, tiny_zoo, within="30m")
    question = asked(stack)
    assert stack.state(run)["type"] == "RUNNING"
    assert champion(stack) is None, "nothing is promoted while it waits"
    address = f"http://127.0.0.1:{stack.prefect_port}/runs/flow-run/{question['id']}"
    assert wait_until(lambda: any(address in line["message"] for line in stack.log(run)), 30)
    page.set_viewport_size({"width": 1280, "height": 1200})
    page.goto(f"http://127.0.0.1:{stack.prefect_port}/runs/flow-run/{question['id']}")
    page.get_by_role("button", name="Resume").first.click()
    dialog = page.locator(".p-modal").first
    dialog.get_by_text("May the merged checkpoint replace the base?").wait_for()
    dialog.get_by_text("zoo_code_bpb").last.wait_for()
    choice, name, comment = dialog.locator(".schema-form-property").all()
    choice.locator("button.p-select-button__control").press("ArrowDown")
    page.get_by_role("option", name="promote").click()
    name.locator("textarea").fill("Ada")
    comment.locator("textarea").fill("Better on both, and the answers read well.")
    page.wait_for_timeout(500)
    page.screenshot(path=images / "ui-approval.png")
    dialog.get_by_role("button", name="Submit").click()
    ended = stack.finish(run)
    assert ending(ended) == "Promoted", ended["state"]["message"]
    assert ended["state"]["message"].startswith("Promoted: approved by Ada on ")
    serves = champion(stack)
    assert serves is not None
    tags = {each["key"]: each["value"] for each in serves["tags"]}
    assert tags["mergeflow.approval"] == "approved by Ada, as typed"
    decision = artifacts_of(stack, run)["zoo-decision"]["data"]
    assert "approved by Ada on " in decision


def test_the_same_merge_again_asks_nobody_as_it_serves_already(
    stack: RunningStack, tiny_zoo: Zoo
) -> None:
    before = newest_run(stack, APPROVAL_FLOW)["id"]
    serves = champion(stack)
    run = start(stack, tiny_zoo, within="30m")
    ended = stack.finish(run)
    assert ending(ended) == "Promoted", ended["state"]["message"]
    assert "nobody was asked again" in ended["state"]["message"]
    assert newest_run(stack, APPROVAL_FLOW)["id"] == before
    assert version(champion(stack)) == version(serves)
    shown = {each["type"] for each in artifacts_of(stack, run).values()}
    assert "progress" not in shown, "what is found in the cache makes no progress"


def test_a_run_that_is_cancelled_while_it_waits_leaves_the_champion(
    stack: RunningStack, tiny_zoo: Zoo
) -> None:
    serves = champion(stack)
    run = start(stack, tiny_zoo, within="30m", weight=0.4)
    asked(stack)
    path = f"/flow_runs/{run}/set_state"
    stack.prefect(path, {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    ended = stack.finish(run, seconds=300)
    assert ended["state"]["type"] == "CANCELLED", ended["state"]
    assert wait_until(lambda: not works_on(stack, run), 60)
    assert version(champion(stack)) == version(serves)


def test_a_run_whose_process_dies_while_it_waits_leaves_the_champion(
    stack: RunningStack, tiny_zoo: Zoo
) -> None:
    serves = champion(stack)
    run = start(stack, tiny_zoo, within="30m", weight=0.4)
    asked(stack)
    for process in works_on(stack, run):
        process.kill()
    ended = stack.finish(run, seconds=300)
    assert ended["state"]["type"] == "CRASHED", ended["state"]
    assert version(champion(stack)) == version(serves)


def test_the_next_up_ends_the_question_that_nobody_waits_for(stack: RunningStack) -> None:
    assert waiting(stack), "left by the run that died"
    assert stack.interrupt() == 0
    stack.up()
    assert waiting(stack) == []
    assert newest_run(stack, APPROVAL_FLOW)["state"]["type"] == "CRASHED"


def test_the_new_look_of_prefect_shows_the_question_and_a_no_keeps_the_base(
    page: Page, stack: RunningStack, tiny_zoo: Zoo
) -> None:
    run = start(stack, tiny_zoo, within="30m", weight=0.42)
    question = asked(stack)
    page.goto(f"http://127.0.0.1:{stack.prefect_port}/v2/runs/flow-run/{question['id']}")
    page.get_by_text("Paused").first.wait_for()
    page.locator("button[aria-haspopup=menu]").last.click()
    page.get_by_role("menuitem", name="Resume").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("May the merged checkpoint replace models:/zoo/").wait_for()
    dialog.get_by_text("serves now").last.wait_for()
    dialog.get_by_text("Your name").first.wait_for()
    answer = {"decision": "keep the base", "name": "Grace"}
    stack.prefect(f"/flow_runs/{question['id']}/resume", {"run_input": answer})
    ended = stack.finish(run)
    assert ending(ended) == "Fell back", ended["state"]["message"]
    assert ended["state"]["message"].startswith("Fell back: Grace kept the base on ")


def test_a_run_outlives_a_long_wait_and_what_a_person_approved_serves_on_when_nobody_answers(
    stack: RunningStack, tiny_zoo: Zoo
) -> None:
    """Longer than Prefect takes to end a run that has lost its place in the concurrency limit."""
    before = champion(stack)
    run = start(stack, tiny_zoo, within="4.2m", weight=0.4)
    asked(stack)
    ended = stack.finish(run, seconds=400)
    assert ending(ended) == "Fell back", ended["state"]["message"]
    assert ended["state"]["message"].startswith("Fell back: nobody approved within 4.2 min")
    assert ended["total_run_time"] > 4.2 * 60
    serves = champion(stack)
    assert version(serves) == version(before)
    assert serves is not None
    tags = {each["key"]: each["value"] for each in serves["tags"]}
    assert tags["mergeflow.approval"] == "approved by Ada, as typed"


def start(stack: RunningStack, zoo: Zoo, within: str, weight: float = 0.5) -> str:
    """Start a merge that asks; its run."""
    filled = form(zoo, promote=LENIENT | {"approve_within": within})
    filled["merge"]["models"][0]["weight"] = weight
    return stack.start_run("merge/merge", filled)


def asked(stack: RunningStack) -> dict[str, Any]:
    """The run that waits for an answer, once there is one more than before."""
    before = {each["id"] for each in waiting(stack)}
    assert wait_until(lambda: any(each["id"] not in before for each in waiting(stack)), 400)
    (run,) = [each for each in waiting(stack) if each["id"] not in before]
    return run


def waiting(stack: RunningStack) -> list[dict[str, Any]]:
    """The runs that wait for an answer."""
    paused = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}
    return list(stack.prefect("/flow_runs/filter", paused))


def works_on(stack: RunningStack, run: str) -> list[psutil.Process]:
    """The processes of a run, which carry its id in their environment."""
    found = []
    for process in stack.processes():
        try:
            if process.environ().get("PREFECT__FLOW_RUN_ID") == run:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def champion(stack: RunningStack) -> dict[str, Any] | None:
    """The version that serves, if there is one."""
    found = stack.mlflow("/registered-models/search").get("registered_models", [])
    if not any(alias["alias"] == "champion" for m in found for alias in m.get("aliases", [])):
        return None
    answer = stack.mlflow("/registered-models/alias", name="zoo", alias="champion")
    return dict(answer["model_version"])


def version(champion: dict[str, Any] | None) -> str:
    """Its number."""
    assert champion is not None
    return str(champion["version"])
