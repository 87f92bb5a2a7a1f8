"""A promotion that a person has to approve, asked on a real Prefect server."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
    LogFilterLevel,
)
from prefect.client.schemas.objects import FlowRun

from flows.approve import approve
from flows.settings.pipeline import Pipeline
from flows.stack.interrupted_runs import end_dead_runs
from flows.stack.prefect_session import PrefectSession
from flows.steps.scores import Scores
from merge_core.errors import StepError
from merge_core.homes.home import Home
from tasks.promotion.rule import PromotionRule
from tasks.records import Decision, EvaluationReport
from tasks.registry.client import open_registry
from tasks.registry.register import register_merge
from tasks.roles import Roles
from tests.support.approvals import answering, question, waiting
from tests.support.decisions import decide
from tests.support.processes import wait_until
from tests.support.registrations import zoo_merge
from tests.tasks.promotion.test_rule import bits_task, report

YES = {"decision": "promote", "name": "Ada", "comment": "read it all"}
NO = {"decision": "keep the base", "name": "Grace", "comment": "the tone is off"}
SCORES = Scores(
    base=report("base", bits_task("code", 0)),
    experts=(report("expert", bits_task("code", -0.3)),),
    merged=report("merged", bits_task("code", -0.2)),
)
DECISION = decide(SCORES.merged, SCORES.base, PromotionRule(gate="former"), SCORES.experts)
assert DECISION.promote


def pipeline(within: str, **changes: Any) -> Pipeline:
    values = {
        "name": "asked",
        "recipe": {"merge_method": "linear", "models": [{"model": "a"}, {"model": "b"}]},
        "evaluate": {"suite": "starter"},
        "promote": {"approve_within": within},
    }
    return Pipeline.model_validate(values | changes)


@flow(name="asks")
def asks(within: str, home: Path, **changes: Any) -> Decision:
    """A run that has come as far as its decision."""
    return approve(pipeline(within, **changes), Home(home), SCORES, DECISION)


def test_a_run_waits_for_a_person_and_their_word_is_a_reason(
    prefect: PrefectSession, home: Home
) -> None:
    with answering({}, {"decision": "promote"}, {**YES, "name": " "}, YES, NO) as person:
        decision = asks("5m", home.path)
    assert decision.promote
    assert decision.reasons[0].startswith("approved by Ada on ")
    assert decision.reasons[0].endswith("UTC: read it all")
    assert person.answers == ["REJECT", "REJECT", "REJECT", "ACCEPT", "ABORT"]
    (run,) = person.seen
    assert run.name.startswith("approve asked-")
    assert {"mergeflow", "approval"} <= set(run.tags)
    assert decision.approval is not None
    assert decision.approval.flow_run_id == str(run.id)
    shown = question(run)
    assert "May the merged checkpoint replace the base?" in shown
    assert all(reason in shown for reason in DECISION.reasons)
    assert "| task | base | merged | change | expert |" in shown
    assert decision.reasons[0] in decision_page(run)
    address = f"/runs/flow-run/{run.id}"
    assert wait_until(lambda: any(address in line for line in log_of(parent_of(run))), 20)


@pytest.mark.slow
def test_a_question_about_an_average_names_no_base(prefect: PrefectSession, home: Home) -> None:
    latest = dataclasses.replace(SCORES, roles=Roles("latest checkpoint", is_average=True))

    @flow(name="asks-about-an-average")
    def asks_about_an_average() -> Decision:
        return approve(pipeline("5m"), home, latest, DECISION)

    with answering(NO, NO | {"decision": "keep the baseline"}) as person:
        decision = asks_about_an_average()
    assert person.answers == ["REJECT", "ACCEPT"], "there is no base to keep"
    assert decision.reasons[0].startswith("Grace kept the latest checkpoint on ")
    (run,) = person.seen
    assert "May the average replace the latest checkpoint?" in question(run)
    assert "The average is not promoted" not in question(run)
    assert "the average is not promoted" in question(run)
    assert "Fell back: the latest checkpoint stays" in decision_page(run)


def test_the_question_names_the_version_that_serves_with_its_recorded_scores(
    prefect: PrefectSession, tiny_zoo: Any, merged: Path, registry: str, tmp_path: Path
) -> None:
    arguments = zoo_merge(tiny_zoo, merged, registry, promote=True)
    served = register_merge(**arguments).champion
    (known,) = [r for r in arguments["reports"] if r.checkpoint_digest == served.digest]
    task = next(score for score in known.scores if score.task == "zoo_next")
    same_suite = {"suite_digest": known.suite_digest}

    def renamed(each: EvaluationReport) -> EvaluationReport:
        """The same on a task that was recorded, of the suite that was recorded."""
        score = each.scores[0].model_copy(update={"task": task.task, "metric": task.metric})
        return each.model_copy(update={**same_suite, "scores": (score,)})

    scores = Scores(renamed(SCORES.base), (), renamed(SCORES.merged))
    decision = decide(scores.merged, scores.base, PromotionRule())
    asked = pipeline("5m", register={"model": "zoo", "tracking_uri": registry})

    @flow(name="asks-who-serves")
    def asks_who_serves() -> Decision:
        return approve(asked, Home(tmp_path), scores, decision)

    with answering(YES) as person:
        assert asks_who_serves().promote
    shown = question(person.seen[0])
    assert f"replace models:/zoo/{served.version}, which serves now?" in shown
    assert "| change | serves now |" in shown
    assert f"| {task.score:.4g} |" in shown


def test_a_person_may_keep_the_base(prefect: PrefectSession, home: Home) -> None:
    with answering(NO | {"name": "Grace\n\x1b[31m"}) as person:
        decision = asks("5m", home.path)
    assert (decision.promote, decision.verdict) == (False, "fell_back")
    assert "kept the base" in decision.reasons[0]
    assert "the tone is off" in decision.reasons[0]
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(person.seen[0].id).state
    assert state is not None
    assert state.message == r"keep the base, says Grace\n\x1b[31m"


def test_without_an_answer_in_time_the_base_is_kept_and_no_answer_counts_any_more(
    prefect: PrefectSession, home: Home
) -> None:
    began = time.monotonic()
    decision = asks("1s", home.path)
    assert time.monotonic() - began < 20
    assert (decision.promote, decision.verdict) == (False, "fell_back")
    assert decision.reasons[0] == "nobody approved within 1 s"
    assert waiting() == []
    assert decision.approval is not None
    with get_client(sync_client=True) as client:
        late = client.resume_flow_run(decision.approval.flow_run_id, YES)
    assert late.status.value == "ABORT"


def test_a_run_whose_question_was_ended_decides_nothing(
    prefect: PrefectSession, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.approve._GRACE_SECONDS", 0)

    def end() -> None:
        """What the next `mergeflow up` does with the questions of runs that are gone."""
        with get_client(sync_client=True) as client:
            end_dead_runs(client)

    with answering(then=end), pytest.raises(StepError, match="nothing was decided"):
        asks("2s", home.path)
    assert waiting() == []


@pytest.mark.slow
def test_the_champion_is_not_asked_about_again(
    prefect: PrefectSession, tiny_zoo: Any, merged: Path, registry: str, tmp_path: Path
) -> None:
    arguments = zoo_merge(tiny_zoo, merged, registry, promote=True)
    served = register_merge(**arguments).champion
    again = DECISION.model_copy(update={"candidate_digest": served.digest})
    serves = pipeline("5m", register={"model": "zoo", "tracking_uri": registry})

    @flow(name="asks-again")
    def asks_again() -> Decision:
        return approve(serves, Home(tmp_path), SCORES, again)

    decision = asks_again()
    assert decision.promote
    assert decision.approval is None
    assert f"models:/zoo/{served.version}" in decision.reasons[0]


@pytest.mark.slow
def test_an_answer_that_comes_after_another_promotion_moves_nothing(
    prefect: PrefectSession, tiny_zoo: Any, merged: Path, registry: str, tmp_path: Path
) -> None:
    arguments = zoo_merge(tiny_zoo, merged, registry, promote=True)
    asked = pipeline("5m", register={"model": "zoo", "tracking_uri": registry})

    @flow(name="asks-meanwhile")
    def asks_meanwhile() -> Decision:
        return approve(asked, Home(tmp_path), SCORES, DECISION)

    def promote_another() -> None:
        register_merge(**arguments)

    with (
        answering(YES, first=promote_another),
        pytest.raises(StepError, match="champion changed from none to models:/zoo/") as refused,
    ):
        asks_meanwhile()
    assert "it asks anew" in str(refused.value.mend)
    with answering(YES):
        again = asks_meanwhile()
    assert again.approval is not None
    assert again.approval.approved


@pytest.mark.slow
def test_who_decided_is_in_mlflow_on_run_and_version_and_each_word_has_its_run(
    tiny_zoo: Any, merged: Path, registry: str, prefect: PrefectSession, home: Home
) -> None:
    with answering(YES):
        approval = asks("5m", home.path).approval
    plain = zoo_merge(tiny_zoo, merged, registry, promote=True)
    asked = plain["decision"].model_copy(update={"approval": approval})
    without = register_merge(**plain)
    found = register_merge(**plain | {"decision": asked})
    assert found.run_id != without.run_id
    with open_registry(registry) as opened:
        version = opened.client.get_model_version("zoo", found.candidate.version)
        run = opened.client.get_run(found.run_id)
        untagged = opened.client.get_run(without.run_id)
    assert version.tags["mergeflow.approval"] == "approved by Ada, as typed"
    tags = run.data.tags
    assert tags["mergeflow.approval"] == "approved"
    assert tags["mergeflow.approval_by"] == "Ada"
    assert tags["mergeflow.approval_comment"] == "read it all"
    assert tags["mergeflow.approval_at"].startswith("20")
    assert "mergeflow.approval" not in untagged.data.tags
    assert register_merge(**plain).run_id == without.run_id


def parent_of(run: FlowRun) -> UUID:
    """The run that asked."""
    assert run.parent_task_run_id is not None
    with get_client(sync_client=True) as client:
        parent = client.read_task_run(run.parent_task_run_id).flow_run_id
    assert parent is not None
    return parent


def log_of(run: UUID) -> list[str]:
    """The lines of a run's log that somebody is to notice."""
    wanted = LogFilter(
        flow_run_id=LogFilterFlowRunId(any_=[run]), level=LogFilterLevel(ge_=logging.WARNING)
    )
    with get_client(sync_client=True) as client:
        return [line.message for line in client.read_logs(log_filter=wanted)]


def decision_page(run: FlowRun) -> str:
    """The decision on the page of the run that asked."""
    parent = parent_of(run)
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[parent]))
        (page,) = client.read_artifacts(artifact_filter=wanted)
    return str(page.data)
