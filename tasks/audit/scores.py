"""The evaluations: scores are those of the documents, and MLflow's metrics are the scores."""

from __future__ import annotations

import math

from tasks.audit import tables, texts
from tasks.audit.evidence import Evaluated, Evidence
from tasks.audit.report import Answers
from tasks.records import EvaluationReport, TaskScore
from tasks.registry.client import TAG
from tasks.registry.evaluations import evaluation_key, metric_name, params_of_evaluation

_CLOSE = 1e-6
"""lm-eval adds up in another order."""


def check(evidence: Evidence, answers: Answers) -> None:
    """Each evaluation that belongs to the run."""
    if evidence.run is None:
        answers.unknown("there is no run that evaluations belong to")
        return
    roles = [each.role for each in evidence.evaluations]
    for role in ("merged", "base"):
        if role not in roles and not _is_base(evidence, role):
            answers.fails(f"the evaluation of the {role} checkpoint is gone")
    for role in sorted({role for role in roles if roles.count(role) > 1}):
        answers.fails(f"there is more than one evaluation of {role}")
    for each in evidence.evaluations:
        if each.report is None:
            answers.fails(f"{each.role}: evaluation.json is missing, or cannot be read")
            continue
        _one(evidence, each, each.report, answers)
    tables.check(evidence, answers)
    texts.check(evidence, answers)
    if not answers.failed:
        documents = sum(
            len(score.doc_ids)
            for each in evidence.evaluations
            if each.report
            for score in each.report.scores
        )
        answers.holds(
            f"{len(evidence.evaluations)} evaluations: scores computed again from the values of"
            f" {documents} documents, and metrics are the scores"
        )


def _is_base(evidence: Evidence, role: str) -> bool:
    """A merge that gave back its base has one evaluation."""
    decision = evidence.decision
    one = decision is not None and decision.candidate_digest == decision.baseline_digest
    return role == "base" and one


def _one(evidence: Evidence, of: Evaluated, report: EvaluationReport, answers: Answers) -> None:
    tags, metrics = of.run.data.tags, of.run.data.metrics
    who = of.role
    answers.same(f"{who}: evaluated", report.checkpoint_digest, tags.get(TAG + "digest"), "its run")
    answers.same(f"{who}: suite", report.suite_digest, tags.get(TAG + "suite_digest"), "its run")
    key = tags.get(TAG + "evaluation")
    if key is not None:
        answers.same(
            f"{who}: the key of its scores", key, evaluation_key(report), "evaluation.json"
        )
    for name, value in params_of_evaluation(report).items():
        shown = of.run.data.params.get(name)
        if shown is not None:
            answers.same(f"{who}: the parameter {name} of its run", shown, value, "evaluation.json")
    suite = evidence.fact("suite_digest")
    if suite is not None:
        answers.same(f"{who}: suite", report.suite_digest, suite, "the version")
    parent = evidence.run.data.metrics if evidence.run else {}
    for score in report.scores:
        computed = _computed(score)
        if computed is not None and not _alike(score.score, computed):
            answers.fails(
                f"{who}: {score.task} is {score.score:.6g}, its documents give {computed:.6g}"
            )
        name = metric_name(score)
        for said, whose in (
            (metrics.get(name), "its run"),
            (parent.get(f"{who}/{name}"), "the run"),
        ):
            if said is None or not _alike(said, score.score):
                answers.fails(
                    f"{who}: the metric {name} of {whose} is {said}, not {score.score:.6g}"
                )


def _computed(score: TaskScore) -> float | None:
    """The score that the values of the documents give."""
    weight = math.fsum(score.weights)
    if not weight:
        return None
    ratio = math.fsum(score.values) / weight
    try:
        return 2.0**ratio if score.scale == "power_of_two" else ratio
    except OverflowError:
        return None


def _alike(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_CLOSE, abs_tol=1e-12)
