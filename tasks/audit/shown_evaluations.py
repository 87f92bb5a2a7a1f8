"""What MLflow's pages show of the evaluations of a merge: no more than was recorded of each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from merge_core.files.bounded_json import parse_json
from merge_core.findings import printable
from tasks.audit.evidence import Evaluated, Evidence
from tasks.audit.look_alikes import known_tags, tags_of
from tasks.audit.report import Answers
from tasks.records import EvaluationReport
from tasks.registry.client import TAG
from tasks.registry.evaluations import (
    EVALUATION,
    metrics_of_evaluation,
    params_of_evaluation,
)
from tasks.registry.tables import DOCUMENTS

if TYPE_CHECKING:
    from mlflow.entities import Run

_TAGS = frozenset(
    ("kind", "digest", "role", "suite", "suite_digest", "evaluation", "failure", "recorded")
)
_FILES = {EVALUATION, DOCUMENTS}
_OF_A_MAKER = ("mlflow.user", "mlflow.source.name", "mlflow.source.type")


def check(evidence: Evidence, run: Run, answers: Answers) -> None:
    """Each evaluation's run, and what the merge's run has of each."""
    for each in evidence.evaluations:
        _one(evidence, each, answers)
    _makers(evidence, run, answers)


def _one(evidence: Evidence, of: Evaluated, answers: Answers) -> None:
    run, who = of.run, f"the evaluation of {of.role}"
    if run.info.status != "FINISHED" or run.data.tags.get(TAG + "recorded") != "true":
        answers.fails(f"{who} is {run.info.status}, and its record is finished")
    tags_of(run.data.tags, who, answers)
    known_tags(run.data.tags, _TAGS, (), who, answers)
    present = {str(item.path) for item in evidence.registry.client.list_artifacts(run.info.run_id)}
    for name in sorted(present - _FILES):
        answers.fails(f"{printable(name)} among the files of {who} was put there by others")
    for name in sorted(_FILES - present):
        answers.fails(f"{name} among the files of {who} is missing")
    if of.report is None:
        return  # `scores` says so
    made: dict[str, Any] = params_of_evaluation(of.report)
    for name in sorted(made.keys() ^ run.data.params.keys()):
        what = "is missing" if name in made else "is none of the record's"
        answers.fails(f"{who}: the parameter {printable(name)} {what}")
    for name in sorted(run.data.metrics.keys() - metrics_of_evaluation(of.report)):
        answers.fails(f"{who}: the metric {printable(name)} is none of the record's")
    _report(evidence, of.role, of.report, answers)


def _report(evidence: Evidence, role: str, report: EvaluationReport, answers: Answers) -> None:
    """What the merge's run has of it, without its documents."""
    name = f"reports/evaluation-{role.replace('/', '-')}.json"
    content = evidence.file(name)
    if content is None:
        return  # `artifacts` says so
    whole = json.loads(report.model_dump_json())
    try:
        same = _is_part_of(parse_json(content, unique_keys=True), whole)
    except ValueError:
        same = False
    if not same:
        answers.fails(f"{name} is not what the evaluation of {role} says")


def _is_part_of(one: Any, whole: Any) -> bool:
    """Whether all that one value says is in another."""
    if isinstance(one, dict) and isinstance(whole, dict):
        return all(key in whole and _is_part_of(value, whole[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(whole, list):
        return len(one) == len(whole) and all(map(_is_part_of, one, whole))
    return bool(one == whole)


def _makers(evidence: Evidence, run: Run, answers: Answers) -> None:
    """A merge and its evaluations are written by one program: who MLflow says made them is one."""
    parent = run.data.tags.get("mlflow.parentRunId")
    if parent:
        answers.fails(f"the run is shown below another one, {printable(parent, 40)}")
    makers = {_maker(each.run): each.role for each in evidence.evaluations}
    if makers and set(makers) != {_maker(run)}:
        said = ", ".join(each for each in _maker(run) if each) or "nobody"
        answers.fails(
            f"MLflow says that {printable(said, 100)} made the run, and others its evaluations"
        )


def _maker(run: Run) -> tuple[str, ...]:
    return (str(run.info.user_id), *(str(run.data.tags.get(tag, "")) for tag in _OF_A_MAKER))
