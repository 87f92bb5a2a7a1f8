"""A person's word before a promotion: a run that waits for a while, with the evaluation and a form.

It is a run of its own inside the run that asks, because Prefect takes a deployment's place in its
concurrency limit away from a run that is paused itself, and then ends it for having lost it.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
import uuid
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

import httpx
from prefect import flow, get_client, pause_flow_run, runtime, tags
from prefect.client.schemas.objects import State
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import FlowPauseTimeout
from prefect.input import RunInput
from prefect.states import Completed
from prefect.utilities.urls import url_for
from pydantic import Field

from flows.run_log import log_to_prefect
from flows.run_step import UNSTORED, call_flow, end_with
from flows.settings.pipeline import Pipeline
from flows.steps.judging import publish_decision
from flows.steps.scores import Scores
from merge_core.errors import StepError
from merge_core.homes.home import Home
from merge_core.text.plain import plain, plain_log
from tasks.promotion.approval import with_approval, without_question
from tasks.records import Approval, Decision
from tasks.registry.champion import current_champion, holds_champion, serving_now
from tasks.reports.decision import question_markdown
from tasks.roles import Roles
from tasks.units import read_duration, spell_duration, timestamp

APPROVAL_FLOW = "approve"
QUESTION_TAGS = ("mergeflow", "approval")

_LOOK_EVERY = 1
_GRACE_SECONDS = 300
"""How much later than we Prefect gives up, which would end the run as failed."""
_PROMOTE, _KEEP, _KEEP_BASELINE = "promote", "keep the base", "keep the baseline"

_log = plain_log("mergeflow")


class _Answer(RunInput):
    """Who answers, and why. Nothing is filled in: an empty form approves nothing."""

    decision: str
    name: str = Field(
        pattern=r"\S",
        max_length=100,
        title="Your name",
        description="Kept as you type it with the decision, here and in MLflow. The password says"
        " that you may decide; nothing checks the name.",
        json_schema_extra={"position": 1},
    )
    comment: str = Field(
        default="",
        max_length=1000,
        title="Comment",
        description="Why; kept with the decision.",
        json_schema_extra={"position": 2},
    )


class PromotionAnswer(_Answer):
    """The form of a question about a merge."""

    decision: Literal["promote", "keep the base"] = Field(
        title="Decision",
        description="promote: the merged checkpoint serves from now on.",
        json_schema_extra={"position": 0},
    )


class AverageAnswer(_Answer):
    """The form of a question about an average, which has no base."""

    decision: Literal["promote", "keep the baseline"] = Field(
        title="Decision",
        description="promote: the average serves from now on. The baseline is what the average was"
        " compared with.",
        json_schema_extra={"position": 0},
    )


def approve(pipeline: Pipeline, home: Home, scores: Scores, decision: Decision) -> Decision:
    """The decision after a person was asked, where the rule promotes and the pipeline asks for it.

    Each run asks anew, and no answer is ever found in a cache. A checkpoint that is the champion
    already is not asked about.

    Raises:
        StepError: the run that asks was ended from outside, or the champion changed meanwhile.
    """
    within, name = pipeline.promote.approve_within, pipeline.register_as.model
    if not (within and decision.promote):
        return decision
    reports, roles = scores.reports, scores.roles
    serving = None
    if name is not None:
        uri = pipeline.register_as.address(home)
        champion = holds_champion(uri, name, decision.candidate_digest)
        if champion is not None:
            _log.info("%s is this checkpoint already: nobody is asked", champion)
            unasked = without_question(decision, champion)
            publish_decision(pipeline, scores, unasked)
            return unasked
        serving = serving_now(uri, name, scores.merged)
    question = question_markdown(decision, *reports, roles, serving)
    with tags(*QUESTION_TAGS):
        asked = (pipeline.run_name, question, within, roles.baseline, roles.is_average)
        approval: Approval = call_flow(ask, *asked)
    asked_about = serving.address if serving else None
    if name is not None and (now := current_champion(uri, name)) != asked_about:
        raise StepError(
            f"the champion changed from {asked_about or 'none'} to {now or 'none'} while this"
            " waited,"
            " so the alias was left alone",
            where=f"approval of {pipeline.run_name}",
            mend="start the run again: what it has computed is found again, and it asks anew",
        )
    answered = with_approval(decision, approval, within, roles)
    publish_decision(pipeline, scores, answered)
    return answered


def _run_name() -> str:
    return f"approve {runtime.flow_run.parameters['name']}"


@flow(name=APPROVAL_FLOW, flow_run_name=_run_name, **UNSTORED)
def ask(
    name: str, evaluation: str, within: str, baseline: str = "base", is_average: bool = False
) -> State[Approval]:
    """Wait for a person to promote or not; without an answer nothing is promoted.

    Args:
        name: the merge or average in question.
        evaluation: the page that the person reads.
        within: how long to wait.
        baseline: the name of the checkpoint that serves otherwise.
        is_average: whether the candidate is an average.
    """
    log_to_prefect()
    run_id, seconds = runtime.flow_run.id, read_duration(within)
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    roles = Roles(baseline, is_average)
    form, keep = (AverageAnswer, _KEEP_BASELINE) if is_average else (PromotionAnswer, _KEEP)
    page = (
        f"{evaluation}\nWithout an answer by {until:%Y-%m-%d %H:%M} UTC {roles.the_candidate} is"
        " not promoted.\n"
    )
    # In the log of the run that asks and waits: who looks there has to find the way here.
    _log.warning(
        "waiting until %s UTC for somebody to approve %s: open %s and press Resume",
        f"{until:%Y-%m-%d %H:%M}",
        roles.the_candidate,
        url_for("flow-run", run_id),
        extra={"flow_run_id": str(runtime.flow_run.parent_flow_run_id or run_id)},
    )
    # Prefect would give a second attempt of this run the answer of the first: each has its own key.
    key = uuid.uuid4().hex
    # The end of the time is an answer like any other. The server takes the first and no second, so
    # nobody can approve what has just been kept back, nor the other way round.
    context, answered = contextvars.copy_context(), threading.Event()
    clock = threading.Thread(
        target=context.run, args=(_keep, run_id, keep, key, seconds, answered), daemon=True
    )
    clock.start()
    try:
        answer = pause_flow_run(
            form.with_initial_data(description=page),
            timeout=int(seconds) + _GRACE_SECONDS,
            poll_interval=_LOOK_EVERY,
            key=key,
        )
    except FlowPauseTimeout:
        raise StepError(
            "the question was ended from outside, so nothing was decided",
            where=f"approval of {name}",
            mend="start the run again: what it has computed is found again, and it asks anew",
        ) from None
    finally:
        answered.set()
    too_late = answer.comment == key
    approval = Approval(
        approved=answer.decision == _PROMOTE,
        by=None if too_late else answer.name.strip(),
        comment="" if too_late else answer.comment.strip(),
        at=timestamp(),
        flow_run_id=str(run_id),
    )
    if approval.by is None:
        said = f"nobody answered within {spell_duration(within)}"
    else:
        said = plain(f"{answer.decision}, says {approval.by}")
    _log.info("approval: %s", said)
    return end_with(Completed(message=said, data=approval))


def _keep(run_id: str, keep: str, key: str, seconds: float, answered: threading.Event) -> None:
    """When the time is over, answer in the place of a person who did not.

    Tried again for as long as the run waits: it may not have paused yet, or the server be restarted
    just now. Where a person was faster the run ends, and this with it.
    """
    answer = {"decision": keep, "name": "nobody", "comment": key}
    wait = seconds
    while not answered.wait(wait):
        wait = _LOOK_EVERY
        with contextlib.suppress(httpx.HTTPError), get_client(sync_client=True) as client:
            if client.resume_flow_run(UUID(run_id), answer).status == SetStateStatus.ACCEPT:
                return
