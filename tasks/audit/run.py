"""The merge run: it is there, made this model, and says the same as the version."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tasks.audit.evidence import Evidence
from tasks.audit.report import Answers
from tasks.lineage.recorded import is_deleted
from tasks.lineage.trace import inputs_of_run
from tasks.registry.client import TAG

if TYPE_CHECKING:
    from mlflow.entities import Run

_KEY = re.compile(r"[0-9a-f]{64}")
_SAID_TWICE = ("verdict", "pipeline")
_SAID_BEFORE = ("base_digest",)
"""By versions of before."""
_GONE = "gone: "


def check(evidence: Evidence, answers: Answers) -> None:
    """Version → run → outputs and inputs agree."""
    run, named = evidence.run, evidence.tag("run_id")
    if run is None:
        answers.fails(f"the run that made it is gone: {named or 'the version names none'}")
        return
    if is_deleted(run):
        answers.fails(f"the run that made it was deleted: {named}")
    tags = run.data.tags
    answers.same("the run's digest", tags.get(TAG + "digest"), evidence.digest, "the version")
    answers.same("the run's model", tags.get(TAG + "model"), evidence.version.name, "the version")
    for key in (*_SAID_TWICE, *(each for each in _SAID_BEFORE if evidence.tag(each))):
        answers.same(
            f"the run's {key}", tags.get(TAG + key) or None, evidence.tag(key), "the version"
        )
    if tags.get(TAG + "recorded") != "true":
        answers.fails("the record of the run was never finished")
    _outputs(evidence, answers)
    _inputs(evidence, answers)
    _first_run(evidence, answers)
    _alone(evidence, run, answers)
    if not answers.failed:
        answers.holds("the run is there, made this model, and says the same as the version")


def _outputs(evidence: Evidence, answers: Answers) -> None:
    run, model = evidence.run, evidence.model
    if run is None or model is None:
        return
    made = {item.model_id for item in run.outputs.model_outputs} if run.outputs else set()
    if model.model_id not in made:
        answers.fails("the run's outputs are not the model that the version leads to")
    for model_id in sorted(made - {model.model_id}):
        other = evidence.model_named(model_id)
        if other is not None and other.tags.get(TAG + "digest") != evidence.digest:
            answers.fails(f"the run is said to have made another model, too: {model_id}")


def _alone(evidence: Evidence, run: Run, answers: Answers) -> None:
    """No other run says that it is this record: a registration that is repeated could take it."""
    key = run.data.tags.get(TAG + "registration", "")
    if not _KEY.fullmatch(key):
        return  # which `record` says
    found = evidence.registry.client.search_runs(
        [run.info.experiment_id], f"tags.`{TAG}registration` = '{key}'", max_results=10
    )
    for other in found:
        if other.info.run_id != run.info.run_id:
            answers.fails(f"another run says that it is this record: {other.info.run_id}")


def _first_run(evidence: Evidence, answers: Answers) -> None:
    """The run that MLflow's page of the version shows: the one that made the version, which an
    earlier decision may have done."""
    first = evidence.version.run_id
    if not first and evidence.is_listed:
        answers.fails("MLflow shows no run for the version: somebody took it off")
    if not first or first == evidence.tag("run_id"):
        return
    run = evidence.run_named(first)
    if run is not None and run.data.tags.get(TAG + "digest") != evidence.digest:
        answers.fails(f"the run that MLflow shows for the version made something else: {first}")


def _inputs(evidence: Evidence, answers: Answers) -> None:
    run, manifest = evidence.run, evidence.manifest
    if run is None or manifest is None:
        return
    noted = {item.digest for item in inputs_of_run(run)}
    answers.same(
        "the inputs that the run's tags name",
        sorted(digest[:12] for digest in noted),
        sorted({item.digest[:12] for item in manifest.inputs}),
        "its manifest",
    )
    models = run.inputs.model_inputs if run.inputs else []
    known = set()
    for item in models:
        model = evidence.model_named(item.model_id)
        known.add(model.tags.get(TAG + "digest", "") if model else f"{_GONE}{item.model_id}")
    missing = {item.digest for item in manifest.inputs} - known
    for digest in sorted(missing):
        answers.fails(f"no input of the run in MLflow is the checkpoint {digest[:12]}")
    for digest in sorted(known - {item.digest for item in manifest.inputs}):
        if not digest.startswith(_GONE):
            answers.fails(f"an input of the run in MLflow is none of the merge: {digest[:12]}")
