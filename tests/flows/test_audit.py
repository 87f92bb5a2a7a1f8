"""The audit as a flow: its form, its page, and the state that it ends in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import get_client
from prefect.client.schemas.objects import State
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from flows.audit import audit_versions
from flows.stack.prefect_session import PrefectSession
from flows.steps.audit_page import audit_markdown, summary
from flows.steps.endings import Ending, ending_of
from merge_core.homes.home import Home
from tasks.audit.report import Answer, AuditReport
from tasks.registry.client import open_registry
from tests.support.audited import Audited
from tests.support.merge_store import clear_away
from tests.support.tampering import KINDS, Tamperer

SCHEMA = parameter_schema(audit_versions).model_dump_for_openapi()


@pytest.fixture
def tampered(
    audited: Audited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Audited]:
    """A copy whose version 2 does not hold; the home of this process."""
    copy = audited.copied(tmp_path)
    monkeypatch.setenv("MERGEFLOW_HOME", str(copy.home.path))
    with open_registry(copy.registry):
        pass  # its database leads to the copy from now on
    tamper, _check, _said = KINDS["the rule"]
    tamper(Tamperer(copy))
    yield copy
    clear_away(Home(tmp_path))


def page_of(state: State[Any]) -> str:
    wanted = {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/artifacts/filter", json=wanted).json()
    [page] = [each["data"] for each in found if each["type"] == "markdown"]
    return str(page)


@pytest.mark.parametrize("value", ["", "models:/zoo@champion", "models:/zoo/3"])
def test_a_version_or_none_is_asked_for(value: str) -> None:
    assert validate({"model": value}, SCHEMA) == []
    assert validate({}, SCHEMA) == []


@pytest.mark.parametrize("value", ["zoo", "models:/zoo", "models:/zoo/three", "models:/zoo/3\n"])
def test_a_wrong_one_is_told_at_its_field(value: str) -> None:
    [error] = validate({"model": value}, SCHEMA)
    assert "'models:/NAME@champion or models:/NAME/3; or nothing' was expected" in error.message


@pytest.mark.slow
def test_what_holds_ends_completed_and_changes_nothing(
    prefect: PrefectSession, audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MERGEFLOW_HOME", str(audited.home.path))
    before = {path: path.stat().st_mtime_ns for path in audited.home.path.rglob("*")}
    state = audit_versions("models:/model@champion", return_state=True)
    assert ending_of(state) is Ending.HOLDS, state.message
    assert state.message == "Holds: all that is recorded of models:/model/2 holds"
    assert "| files | holds |" in page_of(state)
    assert {path: path.stat().st_mtime_ns for path in audited.home.path.rglob("*")} == before


@pytest.mark.slow
def test_what_does_not_hold_ends_failed_and_says_what(
    prefect: PrefectSession, tampered: Audited
) -> None:
    state = audit_versions(return_state=True)
    assert (state.name, ending_of(state)) == ("Failed", None)
    assert state.message is not None
    assert state.message.startswith("1 of 3 versions does not hold")
    assert "models:/model/2: decision: " in state.message
    page = page_of(state)
    assert page.index("### models:/model/2") < page.index("### models:/model/1")
    assert "| decision | **does not hold** |" in page


@pytest.mark.slow
def test_a_version_that_is_not_there_is_told(
    prefect: PrefectSession, audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MERGEFLOW_HOME", str(audited.home.path))
    state = audit_versions("models:/model/99", return_state=True)
    assert state.name == "Failed"
    assert "99" in str(state.message)


def test_a_page_of_thousands_is_not_written() -> None:
    def report(number: int, outcome: Any) -> AuditReport:
        answers = (Answer(check="files", outcome=outcome, what="| a *pipe*"),) * 12
        return AuditReport(model_uri=f"models:/zoo/{number}", digest=None, answers=answers)

    reports = [report(number, "holds") for number in range(3000)] + [report(3000, "fails")]
    page = audit_markdown(reports)
    assert page.startswith("## Audit: 1 of 3,001 versions does not hold\n")
    assert len(page) < 200_000
    assert page.index("### models:/zoo/3000") < page.index("### models:/zoo/0")
    assert "The checks of 2,951 versions are left out" in page
    assert r"\| a \*pipe\*" in page
    assert summary([]) == "no version of a model of mergeflow's is registered"
