"""The child runs of a merge's run: one for each evaluation, with its scores and its documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from merge_core.files.digests import digest_of
from tasks.evaluation.odd_answers import counted
from tasks.records import EvaluationReport, TaskScore
from tasks.registry.client import MAX_TAG_VALUE, TAG, Registry, mergeflow_experiments
from tasks.registry.datasets import DatasetName, dataset_of, datasets_of
from tasks.registry.facts import MergeFacts, slug
from tasks.registry.run_files import log_files, log_tables
from tasks.registry.runs import (
    MAX_PARAM_VALUE,
    ensure_run,
    finish,
    is_recorded,
    log_inputs,
)
from tasks.registry.tables import DOCUMENTS, evaluation_table

if TYPE_CHECKING:
    from mlflow.entities import Run


EVALUATION = "evaluation.json"
"""With the value of every document."""


def metric_name(score: TaskScore) -> str:
    """The name of a task's score among the metrics of an evaluation's run."""
    return f"{slug(score.task)}/{slug(score.metric)}"


def record_evaluation(
    registry: Registry, parent: Run, facts: MergeFacts, report: EvaluationReport, model_id: str
) -> None:
    """Write the child run of one evaluation: scores on the model, per-document values as files.

    Scores that another merge's run has put on the model already are not put there again.
    """
    from mlflow.entities import Param

    client, experiment_id = registry.client, parent.info.experiment_id
    tags = {
        "mlflow.parentRunId": parent.info.run_id,
        TAG + "kind": "evaluation",
        TAG + "digest": report.checkpoint_digest,
        TAG + "role": facts.role(report.checkpoint_digest),
        TAG + "suite": report.suite,
        TAG + "suite_digest": report.suite_digest,
        TAG + "evaluation": evaluation_key(report),
        **({TAG + "failure": report.failure[:MAX_TAG_VALUE]} if report.failure else {}),
    }
    keys = ("mlflow.parentRunId", TAG + "digest", TAG + "suite_digest")
    same = " and ".join(f"tags.`{key}` = '{tags[key]}'" for key in keys)
    called = {"base": facts.roles.baseline, "merged": facts.roles.candidate}
    name = called.get(tags[TAG + "role"], tags[TAG + "role"])
    run = ensure_run(registry, experiment_id, same, f"evaluate {name}", tags)
    if not is_recorded(run):
        first = _recorded_before(registry, run, report)
        client.log_batch(
            run.info.run_id,
            metrics=_metrics(report, run.info.start_time, None if first else model_id),
            params=[
                Param(key, value)
                for key, value in params_of_evaluation(report).items()
                if key not in run.data.params
            ],
        )
        log_inputs(registry, run, [model_id], datasets_of([report]))
        files = {EVALUATION: report.model_dump_json(indent=1)}
        log_files(registry, run.info.run_id, files)
        log_tables(registry, run, {DOCUMENTS: evaluation_table(report)})
        finish(registry, run.info.run_id)


def params_of_evaluation(report: EvaluationReport) -> dict[str, str]:
    """What was evaluated on what, by what."""
    params = {
        "suite": report.suite,
        "suite_digest": report.suite_digest,
        "checkpoint": report.reference,
        "lm_eval": report.lm_eval_version,
        "transformers": report.transformers_version,
        "device": report.device,
    }
    return {key: value[:MAX_PARAM_VALUE] for key, value in params.items()}


def evaluation_key(report: EvaluationReport) -> str:
    """Of what was measured: an evaluation that was found in the cache has the same."""
    scores = [score.model_dump(mode="json", exclude_none=True) for score in report.scores]
    return digest_of([report.checkpoint_digest, report.suite_digest, scores])


def _recorded_before(registry: Registry, run: Run, report: EvaluationReport) -> bool:
    """Whether the model has these scores, by the run of another merge or of an earlier decision."""
    found = registry.client.search_runs(
        mergeflow_experiments(registry),
        f"tags.`{TAG}evaluation` = '{evaluation_key(report)}' and tags.`{TAG}recorded` = 'true'",
        max_results=2,
    )
    return any(each.info.run_id != run.info.run_id for each in found)


def metrics_of_evaluation(report: EvaluationReport) -> dict[str, float]:
    """The numbers of an evaluation's run."""
    return {each.key: each.value for each in _metrics(report, 0, None)}


def _metrics(report: EvaluationReport, when: int, model_id: str | None) -> list[Any]:
    """Scores with the documents that they were measured on, as MLflow links the two."""
    from mlflow.entities import Metric

    def metric(name: str, value: float, on: DatasetName | None = None) -> Metric:
        named, digest = on or (None, None)
        return Metric(
            name,
            value,
            when,
            0,
            model_id=model_id,
            dataset_name=named,
            dataset_digest=digest,
        )

    metrics = [metric("truncated_documents", report.truncated)]
    for score in report.scores:
        task, on = slug(score.task), dataset_of(score)
        metrics.append(metric(metric_name(score), score.score, on))
        metrics.append(metric(f"{task}/documents", len(score.doc_ids), on))
        metrics += [metric(f"{task}/{kind}", count, on) for kind, count in counted(score).items()]
    return metrics
