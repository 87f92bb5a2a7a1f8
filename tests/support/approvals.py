"""A person at Prefect who answers a run that waits, through the API as the form does."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from prefect import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType

from tests.support.processes import wait_until


@dataclass
class Person:
    """What somebody saw and did."""

    seen: list[FlowRun] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    """What the server said to each answer: ACCEPT, REJECT, ABORT."""


@contextlib.contextmanager
def answering(
    *answers: dict[str, Any],
    first: Callable[[], object] = lambda: None,
    then: Callable[[], object] = lambda: None,
) -> Iterator[Person]:
    """Somebody who gives these answers, one after the other, to the next run that asks.

    Args:
        first: what they do between being asked and answering.
        then: what they do afterwards.
    """
    person = Person()
    failed: list[BaseException] = []

    def answer() -> None:
        try:
            wait_until(lambda: any(map(question, waiting())), 60)
            (run,) = waiting()
            person.seen.append(run)
            first()
            with get_client(sync_client=True) as client:
                for each in answers:
                    person.answers.append(client.resume_flow_run(run.id, each).status.value)
            then()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    yield person
    thread.join(60)
    assert not failed, failed
    assert person.seen, "nobody was asked"


def waiting() -> list[FlowRun]:
    """The runs that wait for an answer."""
    paused = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED]))
    with get_client(sync_client=True) as client:
        return list(client.read_flow_runs(flow_run_filter=FlowRunFilter(state=paused)))


def question(run: FlowRun) -> str:
    """What is shown beside the form; empty until the run has written it down."""
    with get_client(sync_client=True) as client:
        inputs = client.request(
            "POST",
            "/flow_runs/{id}/input/filter",
            path_params={"id": run.id},
            json={"prefix": "paused-", "limit": 10},
        ).json()
    shown = [each["value"] for each in inputs if each["key"].endswith("-description")]
    return str(json.loads(shown[0])) if shown else ""
