"""A person's word: version, run and decision say the same of it."""

from __future__ import annotations

from collections.abc import Mapping

from merge_core.findings import printable
from tasks.audit.evidence import Evidence
from tasks.audit.report import Answers
from tasks.registry.client import TAG, mergeflow_experiments
from tasks.registry.runs import approval_tags
from tasks.registry.version_tags import TYPED, approval_said


def check(evidence: Evidence, answers: Answers) -> None:
    """The tags are those that the decision's approval gives, and there are none without one."""
    run, decision = evidence.run, evidence.decision
    if run is None or decision is None:
        answers.unknown("there is no decision that a person could have approved")
        return
    wanted = approval_tags(decision.approval) if decision.approval else {}
    said = {
        key.removeprefix(TAG): value
        for key, value in run.data.tags.items()
        if key.startswith(TAG + "approval")
    }
    answers.same("the run's word of a person", said, wanted, "the decision")
    on_version = {
        key.removeprefix(TAG): value
        for key, value in evidence.version.tags.items()
        if key.startswith(TAG + "approval")
    }
    # A champion keeps the word that made it one when a later run decides without a person.
    if decision.approval is not None or not decision.promote:
        said_shortly = {"approval": approval_said(decision.approval)} if decision.approval else {}
        if on_version not in (wanted, said_shortly):
            answers.same("the version's word of a person", on_version, said_shortly, "the decision")
    elif on_version:
        _of_another_run(evidence, on_version, answers)
    if not answers.failed:
        answers.holds("approved by a person, as typed" if wanted else "nobody was asked")


def _of_another_run(evidence: Evidence, said: Mapping[str, str], answers: Answers) -> None:
    """A word that the version keeps is one that an earlier run on this checkpoint has."""
    from mlflow.entities import ViewType

    found = evidence.registry.client.search_runs(
        mergeflow_experiments(evidence.registry),
        f"tags.`{TAG}kind` = 'merge' and tags.`{TAG}digest` = '{evidence.digest}'",
        run_view_type=ViewType.ALL,
        max_results=1000,
    )
    for run in found:
        tags = run.data.tags
        typed = tags.get(TAG + "approval_by", "nobody")
        answer = tags.get(TAG + "approval")
        named = said.get("approval_by", typed) == typed  # versions of before have a tag for it
        if answer and named and said.get("approval") in (answer, f"{answer} by {typed}{TYPED}"):
            return
    word = printable(said.get("approval", ""), 100)
    answers.fails(f"the version says {word}, and no run on this checkpoint says so")
