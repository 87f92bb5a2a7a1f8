"""Progress on a run's page: how often it is told, and what stands there at the end."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
from prefect import flow, get_client
from prefect.artifacts import update_progress_artifact
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact, State

from flows.stack.prefect_session import PrefectSession
from merge_core.progress import ProgressEvent
from tasks.progress import prefect_progress

SECONDS, EVENTS = 4.0, 200


@flow(name="two-steps")
def two_steps() -> None:
    """A short step, then a long one."""
    quick = prefect_progress("quick step")
    for done in range(5):
        quick(ProgressEvent("quick", done + 1, 5, "tensors"))
    long = prefect_progress("Long step/1")
    began = time.monotonic()
    for done in range(EVENTS):
        time.sleep(max(0.0, began + SECONDS * done / EVENTS - time.monotonic()))
        long(ProgressEvent("long", done + 1, EVENTS, "documents"))


def test_a_long_step_is_told_once_a_second_and_ends_at_100_and_a_short_one_is_not_told(
    prefect: PrefectSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates: list[float] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        updates.append(time.monotonic())
        return update_progress_artifact(*arguments, **options)

    monkeypatch.setattr("prefect.artifacts.update_progress_artifact", counted)
    state = two_steps(return_state=True)
    (shown,) = artifacts(state)
    assert (shown.key, shown.type) == ("long-step-1", "progress")
    assert shown.data == 100.0
    assert shown.description == f"long: {EVENTS} of {EVENTS} documents"
    *during, _last = updates
    assert during, "it is shown after two seconds and told again after three"
    assert all(later - earlier > 0.9 for earlier, later in itertools.pairwise(during))


def artifacts(state: State[None]) -> list[Artifact]:
    """What is on the page of a run."""
    assert state.state_details.flow_run_id is not None
    mine = ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id])
    with get_client(sync_client=True) as client:
        return list(client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=mine)))
