"""Kinds of tampering with what MLflow has beside a merge's own run: evaluations, model, twins."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from mlflow.entities import LoggedModelOutput

from tests.support.tampering import Tamperer
from tests.support.tampering_pages import rekeyed


def merged(at: Tamperer) -> str:
    """The run of the merge's evaluation."""
    return str(at.evaluation("merged").info.run_id)


def twin(at: Tamperer) -> None:
    """A second run that says of itself what the first says."""
    run = at.api.create_run(at.run.info.experiment_id, tags=dict(at.run.data.tags))
    at.api.log_outputs(run.info.run_id, [LoggedModelOutput(at.model_id, 0)])


def fifo_in(place: Path) -> None:
    os.mkfifo(place / "more")


def of_run(column: str) -> str:
    return f"UPDATE runs SET {column} = ? WHERE run_uuid = ?"


def of_model(column: str) -> str:
    return f"UPDATE logged_models SET {column} = ? WHERE model_id = ?"


def more_on_the_page(at: Tamperer) -> None:
    columns = "model_id, metric_name, metric_timestamp_ms, metric_step, metric_value"
    at.sql(
        f"INSERT INTO logged_model_metrics ({columns}, experiment_id, run_id)"
        " VALUES (?, 'acc', 1, 0, 0.99, ?, ?)",
        at.model_id,
        int(at.run.info.experiment_id),
        at.run_id,
    )


def more_facts(at: Tamperer) -> None:
    at.sql(
        "INSERT INTO logged_model_params (model_id, experiment_id, param_key, param_value)"
        " VALUES (?, ?, 'approved', 'yes')",
        at.model_id,
        int(at.run.info.experiment_id),
    )


def again_later(at: Tamperer) -> None:
    later = int(time.time() * 1000) + 10**6
    at.api.log_metric(at.run_id, "gain", at.run.data.metrics["gain"], timestamp=later, step=0)


def huge(at: Tamperer) -> None:
    path = at.artifact("evaluation.json", merged(at))
    at.edit(path, lambda value: value["scores"][0]["values"].__setitem__(0, 1e308))


def ended_later(at: Tamperer) -> None:
    at.sql("UPDATE runs SET end_time = end_time + 86400000 WHERE run_uuid = ?", at.run_id)


KINDS: dict[str, tuple[Callable[[Tamperer], object], str, str]] = {
    "a second run of the same record": (twin, "run", "another run says that it is this record"),
    "a metric more of an evaluation": (
        lambda at: at.api.log_metric(merged(at), "other/acc", 0.99),
        "shown",
        "the evaluation of merged: the metric other/acc is none",
    ),
    "a parameter more of an evaluation": (
        lambda at: at.api.log_param(merged(at), "approved", "yes"),
        "shown",
        "the evaluation of merged: the parameter approved is none",
    ),
    "a tag more of an evaluation": (
        lambda at: at.api.set_tag(merged(at), "mergeflow.approved", "yes"),
        "shown",
        "the evaluation of merged has the tag mergeflow.approved",
    ),
    "an evaluation that is said to have failed": (
        lambda at: at.api.set_terminated(merged(at), "FAILED"),
        "shown",
        "the evaluation of merged is FAILED",
    ),
    "a file more of an evaluation": (
        lambda at: at.artifact("more.md", merged(at)).write_text("lovely"),
        "shown",
        "more.md among the files of the evaluation of merged was put there",
    ),
    "the table of an evaluation": (
        lambda at: at.artifact("documents.json", merged(at)).unlink(),
        "shown",
        "documents.json among the files of the evaluation of merged is missing",
    ),
    "a value of no size": (huge, "decision", "their values are too large"),
    "a comparison that is said twice, with the record's key": (
        lambda at: rekeyed(at, lambda value: value["comparisons"].append(value["comparisons"][0])),
        "decision",
        "tasks: 2, not 3",
    ),
    "a metric that was written again": (again_later, "shown", "was written again, at another time"),
    "who made the run": (
        lambda at: at.api.set_tag(at.run_id, "mlflow.user", "boss"),
        "shown",
        "boss made the run, and others its evaluations",
    ),
    "a run above the run": (
        lambda at: at.api.set_tag(at.run_id, "mlflow.parentRunId", merged(at)),
        "shown",
        "the run is shown below another one",
    ),
    "a tag of the run that is none of ours": (
        lambda at: at.api.set_tag(at.run_id, "mergeflow.audited", "yes"),
        "shown",
        "the run has the tag mergeflow.audited",
    ),
    "a tag of the registered model that is none of ours": (
        lambda at: at.api.set_registered_model_tag("model", "mergeflow.audited", "yes"),
        "shown",
        "the registered model has the tag mergeflow.audited",
    ),
    "a tag of the model that looks like ours": (
        lambda at: at.api.set_logged_model_tags(at.model_id, {"Mergeflow.digest": "0" * 64}),
        "shown",
        "the model has the tag 'Mergeflow.digest'",
    ),
    "where the model is said to be from": (
        lambda at: at.api.set_logged_model_tags(at.model_id, {"mergeflow.reference": "org/base"}),
        "shown",
        "the model's reference is org/base",
    ),
    "the name of the model": (
        lambda at: at.sql(of_model("name"), "approved", at.model_id),
        "shown",
        "the model is called approved",
    ),
    "the type of the model": (
        lambda at: at.sql(of_model("model_type"), "approved", at.model_id),
        "shown",
        "the model's kind is approved",
    ),
    "a fact more of the model": (more_facts, "shown", "the model's parameter approved is none"),
    "a score more on the model's page": (more_on_the_page, "shown", "the model's page shows acc"),
    "an alias of another case": (
        lambda at: at.api.set_registered_model_alias("model", "Champion", "3"),
        "shown",
        "the alias 'Champion' looks like champion",
    ),
    "an alias with a letter of another alphabet": (
        lambda at: at.api.set_registered_model_alias("model", "ch\u0430mpion", "3"),
        "shown",
        "looks like champion",
    ),
    "the state of the version": (
        lambda at: at.sql(
            "UPDATE model_versions SET status = 'FAILED_REGISTRATION' WHERE version = 2"
        ),
        "way",
        "the version is FAILED_REGISTRATION",
    ),
    "the run of the version, taken off": (
        lambda at: at.sql("UPDATE model_versions SET run_id = NULL WHERE version = 2"),
        "run",
        "MLflow shows no run for the version",
    ),
    "when the version was registered": (
        lambda at: at.sql("UPDATE model_versions SET creation_time = 1000 WHERE version = 2"),
        "shown",
        "registered before the run that made it began",
    ),
    "when the run ended": (ended_later, "alias", "the run ended after line 2 of the history"),
    "a time in no year": (
        lambda at: at.sql(of_run("end_time"), 2**63 - 1, at.run_id),
        "shown",
        "a value is there that nothing writes",
    ),
    "a run of no beginning": (
        lambda at: at.sql(of_run("start_time"), None, at.run_id),
        "plan",
        "MLflow cannot show it",
    ),
    "files in a place of no kind": (
        lambda at: at.sql(of_run("artifact_uri"), "nowhere://bucket/run", at.run_id),
        "artifacts",
        "files.json is missing",
    ),
    "a FIFO among the files of the run": (
        lambda at: fifo_in(at.artifact("")),
        "artifacts",
        "more among the files of the run was put there by others",
    ),
    "a directory among the files of the run": (
        lambda at: at.artifact("approved").mkdir(),
        "artifacts",
        "approved/ among the files of the run was put there by others",
    ),
    "a FIFO in the description": (
        lambda at: fifo_in(at.described),
        "description",
        "cannot be fetched",
    ),
    "an approval on a version that nobody was asked about": (
        lambda at: at.api.set_model_version_tag(
            "model", "2", "mergeflow.approval", "approved by The Boss, as typed"
        ),
        "approval",
        "no run on this checkpoint says so",
    ),
    "weights that all may write": (
        lambda at: at.weights.chmod(0o666),
        "files",
        "others than its owner may write model.safetensors",
    ),
    "an object that all may write to": (
        lambda at: at.home.object.chmod(0o777),
        "files",
        "others than its owner may write its directory",
    ),
}
"""Each with what is done, the check that has to name it, and words of its answer."""
