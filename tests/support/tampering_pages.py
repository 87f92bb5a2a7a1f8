"""Kinds of tampering with what MLflow's pages show, and with records that are kept consistent."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow.entities import LoggedModelInput, LoggedModelOutput

from tasks.audit.evidence import Evidence
from tasks.audit.registration import key_of_record
from tasks.registry.client import open_registry
from tests.support.tampering import Tamperer, appended, relocked
from tests.support.tampering_history import rewritten


def rekeyed(at: Tamperer, change: Callable[[dict[str, Any]], object]) -> None:
    """The decision is edited, and the key of the record is the one of what it is then."""
    at.edit(at.artifact("decision.json"), change)
    with open_registry(at.home.registry) as registry, TemporaryDirectory() as scratch:
        evidence = Evidence(registry, at.home.home, at.version, Path(scratch))
        at.api.set_tag(at.run_id, "mergeflow.registration", key_of_record(evidence))


def relisted(at: Tamperer, name: str) -> None:
    """The list of the run's files has what a file is now, and the run does not know."""
    digest = hashlib.sha256(at.artifact(name).read_bytes()).hexdigest()
    at.edit(at.artifact("files.json"), lambda value: value.update({name: digest}))


def unlisted(at: Tamperer) -> None:
    """As a run of before its files were listed, and of before the history knew of it."""
    at.artifact("files.json").unlink()
    at.api.delete_tag(at.run_id, "mergeflow.files")
    rewritten(at, lambda lines: [line.pop("files", None) for line in lines])


def said_twice(at: Tamperer, name: str, what: str) -> None:
    path = at.artifact(name)
    path.write_text(path.read_text().replace("{", "{" + what + ",", 1))


def not_a_number(at: Tamperer) -> None:
    path = at.artifact("evaluation.json", at.evaluation("merged").info.run_id)
    at.edit(path, lambda value: value["scores"][0]["values"].__setitem__(0, float("nan")))


def second_evaluation(at: Tamperer) -> None:
    run = at.evaluation("merged")
    other = at.api.create_run(run.info.experiment_id, tags=dict(run.data.tags))
    path = at.artifact("evaluation.json", run.info.run_id)
    at.api.log_artifact(other.info.run_id, str(path))


def made_a_base(at: Tamperer) -> None:
    for key in ("run_id", "verdict", "pipeline"):
        at.api.delete_model_version_tag("model", "2", f"mergeflow.{key}")
    at.api.set_model_version_tag("model", "2", "mergeflow.role", "base")


def tag_with_a_blank(at: Tamperer) -> None:
    columns = "(key, value, name, version, workspace)"
    at.sql(
        f"INSERT INTO model_version_tags {columns} VALUES (?, ?, 'model', 2, 'default')",
        "mergeflow.verdict ",
        "fell_back",
    )


def other_reference(at: Tamperer) -> None:
    tag = next(tag for tag in at.run.data.tags if tag.startswith("mergeflow.input."))
    said = json.loads(at.run.data.tags[tag]) | {"reference": "another/base"}
    at.api.set_tag(at.run_id, tag, json.dumps(said))


def third_model(at: Tamperer) -> str:
    """The other merge."""
    return str(at.api.get_model_version("model", "3").source.removeprefix("models:/"))


def swapped_pages(at: Tamperer) -> None:
    other = at.api.get_model_version("model", "3").tags["mergeflow.run_id"]
    shutil.copyfile(at.artifact("decision.md", other), at.artifact("decision.md"))


def unsorted_sums(at: Tamperer) -> None:
    path = at.home.object / "SHA256SUMS"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))


def of_metric(at: Tamperer, key: str) -> None:
    """In both tables: the last value, and all of them."""
    at.metric(at.run_id, key, 0.9)


def other_begin(at: Tamperer) -> None:
    begun = "UPDATE runs SET start_time = 1500000000000 WHERE run_uuid = ?"
    at.sql(begun, at.run_id)


OF_RUN = "WHERE run_uuid = ? AND key = ?"
KINDS: dict[str, tuple[Callable[[Tamperer], object], str, str]] = {
    "a page of the record": (
        lambda at: appended(at.artifact("decision.md"), "Approved by the board."),
        "artifacts",
        "decision.md among the files of the run has changed",
    ),
    "the page of another run": (swapped_pages, "artifacts", "decision.md among the files"),
    "a page, and the list of files": (
        lambda at: (appended(at.artifact("decision.md"), "Approved."), relisted(at, "decision.md")),
        "artifacts",
        "the sha256 of files.json",
    ),
    "the versions that it was made with": (
        lambda at: at.edit(
            at.artifact("environment.json"), lambda value: value["packages"].update(torch="9")
        ),
        "artifacts",
        "environment.json among",
    ),
    "a file more among those of the run": (
        lambda at: at.artifact("approval.md").write_text("approved"),
        "artifacts",
        "approval.md among the files of the run was put there by others",
    ),
    "a file of the run that was deleted": (
        lambda at: at.artifact("reports/evaluation-merged.json").unlink(),
        "artifacts",
        "reports/evaluation-merged.json among the files of the run is missing",
    ),
    "the list of files": (
        lambda at: at.artifact("files.json").unlink(),
        "artifacts",
        "files.json is missing",
    ),
    "a decision that says something twice": (
        lambda at: said_twice(at, "decision.json", '"verdict":"fell_back"'),
        "record",
        "says something twice",
    ),
    "a rule that says something twice": (
        lambda at: said_twice(at, "rule.json", '"min_gain":-1'),
        "decision",
        "rule.json is no JSON, or says something twice",
    ),
    "the value of a document that is no number": (not_a_number, "scores", "cannot be read"),
    "the number of documents, with the record's key": (
        lambda at: rekeyed(at, lambda value: value.update(documents=10_000)),
        "decision",
        "documents: 80, not 10000",
    ),
    "the baseline of the decision, with the record's key": (
        lambda at: rekeyed(at, lambda value: value.update(baseline_digest="0" * 64)),
        "decision",
        "baseline_digest",
    ),
    "a second evaluation": (second_evaluation, "scores", "more than one evaluation of merged"),
    "the key of an evaluation": (
        lambda at: at.api.set_tag(
            at.evaluation("merged").info.run_id, "mergeflow.evaluation", "0" * 64
        ),
        "scores",
        "the key of its scores",
    ),
    "a parameter of an evaluation": (
        lambda at: at.sql(
            f"UPDATE params SET value = 'easy' {OF_RUN}",
            at.evaluation("merged").info.run_id,
            "suite",
        ),
        "scores",
        "the parameter suite of its run",
    ),
    "a parameter of the run": (
        lambda at: at.sql(
            f"UPDATE params SET value = '0.9' {OF_RUN}", at.run_id, "recipe.merge_method"
        ),
        "shown",
        "the run's parameter recipe.merge_method",
    ),
    "a parameter more": (
        lambda at: at.api.log_param(at.run_id, "recipe.models.7.model", "another"),
        "shown",
        "the run's parameter recipe.models.7.model is none",
    ),
    "a parameter that was deleted": (
        lambda at: at.sql(f"DELETE FROM params {OF_RUN}", at.run_id, "recipe.merge_method"),
        "shown",
        "the run's parameter recipe.merge_method is missing",
    ),
    "by how much a task got better": (
        lambda at: of_metric(at, "improvement/zoo_code_bpb/bits_per_byte"),
        "shown",
        "the metric improvement/zoo_code_bpb/bits_per_byte is 0.9",
    ),
    "a metric more": (
        lambda at: at.api.log_metric(at.run_id, "merged/other/acc", 0.99),
        "shown",
        "the metric merged/other/acc is none",
    ),
    "an earlier step of a metric": (
        lambda at: at.api.log_metric(at.run_id, "gain", 0.9, step=-1),
        "shown",
        "the metric gain was written again",
    ),
    "a score on the model's page": (
        lambda at: at.sql(
            "UPDATE logged_model_metrics SET metric_value = 0.1"
            " WHERE model_id = ? AND metric_name = 'zoo_code_bpb/bits_per_byte'",
            at.model_id,
        ),
        "shown",
        "the model's page shows zoo_code_bpb/bits_per_byte 0.1",
    ),
    "a data set of the run": (
        lambda at: at.sql(
            "DELETE FROM inputs WHERE rowid = (SELECT min(rowid) FROM inputs"
            " WHERE destination_id = ? AND source_type = 'DATASET')",
            at.run_id,
        ),
        "shown",
        "the run: the data sets in MLflow are not",
    ),
    "the version's description": (
        lambda at: at.api.update_model_version("model", "2", "Approved by the board"),
        "shown",
        "description does not begin with the verdict",
    ),
    "a reason in the version's description": (
        lambda at: at.api.update_model_version("model", "2", "Promoted: it is lovely"),
        "shown",
        "does not give the reasons",
    ),
    "the run's description": (
        lambda at: at.api.set_tag(at.run_id, "mlflow.note.content", "Approved"),
        "shown",
        "the run's description is not its decision.md",
    ),
    "the suite on the run": (
        lambda at: at.api.set_tag(at.run_id, "mergeflow.suite", "easy"),
        "shown",
        "the run's suite is easy",
    ),
    "the reference of an input": (other_reference, "shown", "is not what the manifest says"),
    "a tag that looks like the verdict": (tag_with_a_blank, "shown", "looks like one of ours"),
    "a tag of the version that is none of ours": (
        lambda at: at.api.set_model_version_tag("model", "2", "mergeflow.audited", "yes"),
        "shown",
        "which mergeflow never gives",
    ),
    "when the run began": (other_begin, "shown", "the run began before"),
    "a run that is said to have failed": (
        lambda at: at.api.set_terminated(at.run_id, "FAILED"),
        "shown",
        "the run is FAILED",
    ),
    "an input more in MLflow": (
        lambda at: at.api.log_inputs(at.run_id, models=[LoggedModelInput(third_model(at))]),
        "run",
        "is none of the merge",
    ),
    "an output more in MLflow": (
        lambda at: at.api.log_outputs(at.run_id, [LoggedModelOutput(third_model(at), 0)]),
        "run",
        "made another model, too",
    ),
    "the run that MLflow shows for the version": (
        lambda at: at.sql(
            "UPDATE model_versions SET run_id = ? WHERE version = 2",
            at.api.get_model_version("model", "3").run_id,
        ),
        "run",
        "made something else",
    ),
    "a merge that is made a base": (made_a_base, "run", "the version names none"),
    "the model in the lock": (
        lambda at: relocked(at, lambda value: value["pipeline"].update(register={"model": "it"})),
        "lock",
        "the model in lock.json",
    ),
    "what the manifest of the run took over": (
        lambda at: at.edit(
            at.artifact("manifest.json"), lambda value: value["taken_over"].update(copied=["a.py"])
        ),
        "plan",
        "another one than the run keeps",
    ),
    "sums in another order": (unsorted_sums, "files", "is not its name"),
}
"""Each with what is done, the check that has to name it, and words of its answer."""
