"""How a run that has succeeded ends, told apart at a glance: by its message, a tag and an event.

The state itself is always named `Completed`: the lists of Prefect's UI filter by a fixed set of
names, and a run that ends under any other is missing from them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, TypeVar

from prefect import get_client, runtime
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events import RelatedResource, emit_event
from prefect.events.related import object_as_related_resource, tags_as_related_resources
from prefect.flows import Flow
from prefect.states import Completed, Failed

from flows.run_step import end_with
from flows.terminal.outside_faults import outside_fault
from merge_core.errors import HomeError, MergeflowError
from merge_core.text.plain import plain

R = TypeVar("R")


class Ending(StrEnum):
    """What came of a run; the value is the run's tag."""

    PROMOTED = "promoted"
    FELL_BACK = "fell-back"
    NOTHING_NEW = "nothing-new"
    DRY_RUN = "dry-run"
    HOLDS = "holds"
    """Of an audit."""

    @property
    def words(self) -> str:
        """The first words of the state's message: `Fell back`."""
        return self.value.replace("-", " ").capitalize()

    @property
    def event(self) -> str:
        """The event that is sent once the run has ended: `mergeflow.fell-back`."""
        return f"mergeflow.{self.value}"


def ending_of(run: FlowRun | State[Any]) -> Ending | None:
    """What came of a run; None of one that failed, is still at work, or is not mergeflow's.

    Example:
        >>> from prefect.states import Completed
        >>> ending_of(Completed(message="Fell back: the base keeps serving"))
        <Ending.FELL_BACK: 'fell-back'>
    """
    state = run.state if isinstance(run, FlowRun) else run
    if state is None or state.type != StateType.COMPLETED:
        return None
    said = (state.message or "").partition(":")[0]
    return next((ending for ending in Ending if ending.words == said), None)


def completed(ending: Ending, said: str, data: R | None = None) -> State[R]:
    """The last state of the current run, which gets the tag of its ending.

    Args:
        said: why, in words: what follows the ending in the state's message.
    """
    _tag(ending)
    return end_with(Completed(message=plain(f"{ending.words}: {said}"), data=data))


def failed(error: Exception) -> State[Any]:
    """The last state of a current run that a person has to mend.

    An attempt before may have come to an ending; its tag is taken off.

    Raises:
        Exception: the error itself, where there is nothing for a person to mend.
    """
    known = error if isinstance(error, MergeflowError) else outside_fault(error)
    # What a server does not answer is left to Prefect, which asks it again.
    if known is None or not (known is error or isinstance(known, HomeError)):
        raise error
    _tag(None)
    return end_with(Failed(message=str(known), data=known))


def send_event(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Send the event of a run's ending: a hook of the flows, called when the server has the state.

    The run is the event's resource, and what belongs to the run is related to it as in Prefect's
    own events: automations match it by flow, deployment and tag, and their messages know the run.
    """
    ending = ending_of(state)
    if ending is None:
        return
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(flow_run.id)
        emit_event(
            event=ending.event,
            resource={
                "prefect.resource.id": f"prefect.flow-run.{run.id}",
                "prefect.resource.name": run.name,
            },
            related=_related(client, run),
            payload={"ending": ending.words.lower(), "message": state.message or ""},
        )


def _related(client: SyncPrefectClient, run: FlowRun) -> list[RelatedResource]:
    """Flow, deployment and tags. What the run is at work for besides, Prefect adds itself."""
    related = [object_as_related_resource("flow", "flow", client.read_flow(run.flow_id))]
    if run.deployment_id is not None:
        deployment = client.read_deployment(run.deployment_id)
        related.append(object_as_related_resource("deployment", "deployment", deployment))
    return [*related, *tags_as_related_resources(run.tags)]


def _tag(ending: Ending | None) -> None:
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(runtime.flow_run.id)
        others = [tag for tag in run.tags if tag not in set(Ending)]
        tags = [*others, ending.value] if ending else others
        if tags != run.tags:
            client.update_flow_run(run.id, tags=tags)
