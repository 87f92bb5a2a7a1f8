"""How a successful run is told apart in Prefect: the state's name and message, a tag, an event."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, get_client, tags
from prefect.client.schemas.objects import FlowRun, State
from prefect.server.events.filters import ResourceSpecification
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.states import Completed, Failed, Running

from flows.audit import audit_versions
from flows.average import average_checkpoints
from flows.merge import merge_pipeline
from flows.merge_from_form import merge_from_form
from flows.run_step import UNSTORED
from flows.stack.deployments import DIRECTORY
from flows.stack.prefect_session import PrefectSession
from flows.steps.endings import Ending, completed, ending_of, failed, send_event
from merge_core.errors import MergeflowError
from merge_core.files.strict_yaml import load_yaml
from tests.support.processes import wait_until

ENDINGS = {
    Ending.PROMOTED: "Promoted: it is better",
    Ending.FELL_BACK: "Fell back: it is better",
    Ending.NOTHING_NEW: "Nothing new: it is better",
    Ending.DRY_RUN: "Dry run: it is better",
    Ending.HOLDS: "Holds: it is better",
}

MISTAKES = {
    "mend": MergeflowError("something is wrong"),
    "long name": OSError(errno.ENAMETOOLONG, "File name too long", "x" * 100_000),
    "bug": ZeroDivisionError("of ours"),
}


@flow(name="ends", on_completion=[send_event], **UNSTORED)
def ends(how: str) -> State[str]:
    """A run that ends in one of the ways."""
    if how in MISTAKES:
        return failed(MISTAKES[how])
    return completed(Ending(how), "it is better", "the answer")


@flow(name="conducts", **UNSTORED)
def conducts(how: str) -> UUID:
    """A run that starts such a run inside."""
    state = ends(how, return_state=True)
    assert state.state_details.flow_run_id is not None
    return state.state_details.flow_run_id


def run_of(state: State[Any]) -> FlowRun:
    assert state.state_details.flow_run_id is not None
    with get_client(sync_client=True) as client:
        return client.read_flow_run(state.state_details.flow_run_id)


def events_of(run: UUID) -> list[ReceivedEvent]:
    """The events of mergeflow's own that have a run as their resource."""
    resource = {"id": [f"prefect.flow-run.{run}"]}
    wanted = {"filter": {"event": {"prefix": ["mergeflow."]}, "resource": resource}}
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/events/filter", json=wanted).json()["events"]
    return [ReceivedEvent.model_validate(each) for each in found]


@dataclass
class Ended:
    """A run of each ending, one without the tag `mergeflow`, and one inside another run."""

    runs: dict[Ending, FlowRun]
    untagged: FlowRun
    inner: FlowRun


@pytest.fixture(scope="module")
def ended(prefect: PrefectSession) -> Ended:
    """All of them, with their events on the server, which writes these down every few seconds."""
    runs = {}
    for ending in ENDINGS:
        with tags("mergeflow", "promoted"):  # the second one as if from an attempt before
            runs[ending] = run_of(ends(ending.value, return_state=True))
    untagged = run_of(ends("fell-back", return_state=True))
    with get_client(sync_client=True) as client:
        inner = client.read_flow_run(conducts("fell-back"))
    ids = [each.id for each in (*runs.values(), untagged, inner)]
    assert wait_until(lambda: all(map(events_of, ids)), 30)
    return Ended(runs, untagged, inner)


@pytest.mark.parametrize(("ending", "message"), ENDINGS.items())
def test_every_ending_is_completed_and_its_message_tag_and_event_tell_which(
    ended: Ended, ending: Ending, message: str
) -> None:
    run = ended.runs[ending]
    assert run.state is not None
    assert (run.state.name, run.state.message) == ("Completed", message)
    assert ending_of(run) is ending
    assert sorted(run.tags) == sorted(["mergeflow", ending.value])
    (event,) = events_of(run.id)
    assert event.event == f"mergeflow.{ending.value}"
    assert event.resource["prefect.resource.name"] == run.name
    assert event.payload == {"ending": message.partition(":")[0].lower(), "message": message}
    roles = {(each.role, each.id) for each in event.related}
    assert ("flow", f"prefect.flow.{run.flow_id}") in roles
    assert {("tag", "prefect.tag.mergeflow"), ("tag", f"prefect.tag.{ending.value}")} <= roles


def test_the_shipped_automation_matches_the_event_of_a_run_that_fell_back(ended: Ended) -> None:
    """By the server's own matching, on the event as the server has received it."""
    (shipped,) = [
        each["trigger"]
        for each in load_yaml(DIRECTORY / "automations.yaml")["automations"]
        if each["name"] == "mergeflow: a merge fell back"
    ]

    def is_told(run: FlowRun) -> bool:
        (event,) = events_of(run.id)
        match, related = shipped["match"], shipped["match_related"]
        return (
            event.event in shipped["expect"]
            and ResourceSpecification.model_validate(match).matches(event.resource)
            and any(ResourceSpecification.model_validate(related).matches(r) for r in event.related)
        )

    told = {ending for ending, run in ended.runs.items() if is_told(run)}
    assert told == {Ending.FELL_BACK}
    assert not is_told(ended.untagged)


def test_a_run_inside_another_has_its_own_ending_and_event(ended: Ended) -> None:
    assert ending_of(ended.inner) is Ending.FELL_BACK
    assert "fell-back" in ended.inner.tags
    assert len(events_of(ended.inner.id)) == 1


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("mend", "something is wrong"),
        ("long name", "File name too long\n  what to do: write a shorter name"),
    ],
)
def test_a_failed_run_has_no_ending_and_loses_the_tag_of_an_attempt_before(
    prefect: PrefectSession, mistake: str, said: str
) -> None:
    with tags("mergeflow", "promoted"):
        state = ends(mistake, return_state=True)
    run = run_of(state)
    assert state.is_failed()
    assert state.message is not None
    assert state.message.endswith(said)
    assert len(state.message) < 5000, "a long name is shown without its middle"
    assert ending_of(run) is None
    assert run.tags == ["mergeflow"]
    assert events_of(run.id) == []


def test_what_nobody_can_mend_stays_the_error_that_it_is(prefect: PrefectSession) -> None:
    state = ends("bug", return_state=True)
    assert state.is_failed()
    assert "ZeroDivisionError: of ours" in str(state.message)


@pytest.mark.parametrize(
    "state",
    [
        Completed(),
        Completed(message="All states completed."),
        Completed(message="Promotedly: done"),
        Running(message="Promoted: not yet"),
        Failed(message="Fell back: into the cold"),
    ],
    ids=lambda state: f"{state.name} {state.message}",
)
def test_what_is_not_an_ending_of_ours_is_none(state: State[Any]) -> None:
    assert ending_of(state) is None


@pytest.mark.parametrize(
    "each", [merge_pipeline, merge_from_form, average_checkpoints, audit_versions]
)
def test_every_flow_that_ends_so_sends_the_event(each: Any) -> None:
    hooks: list[Callable[..., Any]] = each.on_completion_hooks
    assert hooks == [send_event]
