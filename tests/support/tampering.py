"""Kinds of tampering with a registered merge: what somebody does who may write to the home."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from merge_core.files.digests import DigestMemo, fingerprint
from merge_core.output.manifest import MANIFEST_NAME
from tests.support.audited import Audited
from tests.support.edited_descriptions import other_requirements, verify_nothing
from tests.support.edited_objects import flip, sha256
from tests.support.registry_contents import client


class Tamperer:
    """What somebody can reach who may write to the home."""

    def __init__(self, home: Audited) -> None:
        self.home = home
        self.api = client(home.registry)
        self.version = self.api.get_model_version("model", "2")
        self.run_id = self.version.tags["mergeflow.run_id"]
        self.run = self.api.get_run(self.run_id)
        self.model_id = self.version.source.removeprefix("models:/")

    @property
    def weights(self) -> Path:
        return self.home.object / "model.safetensors"

    @property
    def described(self) -> Path:
        model = self.api.get_logged_model(self.model_id)
        return Path(model.artifact_location.removeprefix("file://"))

    def artifact(self, name: str, run_id: str | None = None) -> Path:
        run = self.api.get_run(run_id or self.run_id)
        return Path(run.info.artifact_uri.removeprefix("file://")) / name

    def evaluation(self, role: str) -> Any:
        found = self.api.search_runs(
            [self.run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{self.run_id}'"
        )
        return next(run for run in found if run.data.tags["mergeflow.role"] == role)

    def edit(self, path: Path, change: Callable[[dict[str, Any]], None]) -> None:
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    def sql(self, statement: str, *values: object) -> None:
        with sqlite3.connect(self.home.registry.removeprefix("sqlite:///")) as database:
            assert database.execute(statement, values).rowcount == 1

    def metric(self, run_id: str, key: str, value: float) -> None:
        for table in ("metrics", "latest_metrics"):
            self.sql(
                f"UPDATE {table} SET value = ? WHERE run_uuid = ? AND key = ?", value, run_id, key
            )


def consistently_edited(at: Tamperer) -> None:
    """Weights, sums and manifest say the same; the name of the object is another one's."""
    old = sha256(at.weights)
    flip(at.weights)
    for name in ("SHA256SUMS", MANIFEST_NAME):
        path = at.home.object / name
        path.write_text(path.read_text().replace(old, sha256(at.weights)))


def with_its_name(at: Tamperer) -> None:
    """The same, and the object is called what its sums give, and its pointer leads there."""
    before = at.home.object
    consistently_edited(at)
    sums = before / "SHA256SUMS"
    new = hashlib.sha256(sums.read_bytes()).hexdigest()
    before.rename(before.with_name(new))
    for pointer in (at.home.home.path / "store" / "plans").iterdir():
        pointer.write_text(pointer.read_text().replace(before.name, new))


def forged_memo(at: Tamperer) -> None:
    """The memo of digests vouches for weights that were changed."""
    known = sha256(at.weights)
    flip(at.weights)
    memo = DigestMemo(at.home.home.digest_memo)
    memo.remember(at.weights, known, fingerprint(at.weights))


def link_in_its_place(at: Tamperer) -> None:
    aside = at.home.object.rename(at.home.home.path / "aside")
    aside.with_name("aside")
    (at.home.home.objects / at.home.objects_of_first[0]).symlink_to(aside)


def one_better_score(value: dict[str, Any]) -> None:
    value["scores"][0]["score"] -= 0.1


def better_documents(value: dict[str, Any]) -> None:
    """Score and documents agree."""
    score = value["scores"][0]
    score["values"] = [each - 0.1 for each in score["values"]]
    score["score"] = sum(score["values"]) / len(score["values"])


def better_documents_and_metrics(at: Tamperer) -> None:
    run = at.evaluation("merged")
    path = at.artifact("evaluation.json", run.info.run_id)
    at.edit(path, better_documents)
    score = json.loads(path.read_text())["scores"][0]["score"]
    at.metric(run.info.run_id, "zoo_code_bpb/bits_per_byte", score)
    at.metric(at.run_id, "merged/zoo_code_bpb/bits_per_byte", score)


def forged_approval(at: Tamperer) -> None:
    for key, value in (("approval", "approved"), ("approval_by", "The Boss")):
        at.api.set_tag(at.run_id, f"mergeflow.{key}", value)


def swapped_run(at: Tamperer) -> None:
    other = at.api.get_model_version("model", "3").tags["mergeflow.run_id"]
    at.api.set_model_version_tag("model", "2", "mergeflow.run_id", other)


def cut_history(at: Tamperer) -> None:
    [file] = at.home.home.history.glob("*.jsonl")
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-2]))


def edited_history(at: Tamperer) -> None:
    [file] = at.home.home.history.glob("*.jsonl")
    file.write_bytes(file.read_bytes().replace(b'"fell_back"', b'"promoted"'))


def redirected(at: Tamperer) -> None:
    other = at.api.get_model_version("model", "3")
    at.sql("UPDATE model_versions SET source = ? WHERE version = 2", other.source)


def deleted_model_of_an_input(at: Tamperer) -> None:
    for item in at.run.inputs.model_inputs:
        model = at.api.get_logged_model(item.model_id)
        if "tuned" in model.tags["mergeflow.reference"]:
            at.api.delete_logged_model(item.model_id)


def loader_with_a_name_that_fits(at: Tamperer) -> None:
    [loader] = (at.described / "code").glob("*.py")
    evil = b"raise SystemExit('evil')\n"
    name = f"mergeflow_loader_{hashlib.sha256(evil).hexdigest()[:8]}"
    (loader.parent / f"{name}.py").write_bytes(evil)
    mlmodel = at.described / "MLmodel"
    mlmodel.write_text(mlmodel.read_text().replace(loader.stem, name))


def relocked(at: Tamperer, change: Callable[[dict[str, Any]], None]) -> None:
    """The lock is edited, and the run notes the sha256 of what it is then."""
    lock = at.artifact("lock.json")
    at.edit(lock, change)
    at.api.set_tag(at.run_id, "mergeflow.lock", sha256(lock))


def appended(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def edited_table(at: Tamperer) -> None:
    at.edit(at.artifact("scores.json"), lambda value: value["data"][0].__setitem__(2, 0.1))


KINDS: dict[str, tuple[Callable[[Tamperer], object], str, str]] = {
    "a bit of the weights": (lambda at: flip(at.weights), "files", "model.safetensors"),
    "an object edited with its sums": (consistently_edited, "files", "its name"),
    "an object edited, renamed and pointed to": (with_its_name, "files", "is gone from this home"),
    "weights for which the memo vouches": (forged_memo, "files", "model.safetensors"),
    "a file more": (
        lambda at: (at.home.object / "adapter_config.json").write_text("{}"),
        "files",
        "adapter_config.json",
    ),
    "a chat template more": (
        lambda at: (at.home.object / "chat_template.jinja").write_text("evil"),
        "files",
        "chat_template.jinja",
    ),
    "an edited config": (
        lambda at: appended(at.home.object / "config.json", " "),
        "files",
        "config.json",
    ),
    "a link in place of the object": (link_in_its_place, "files", "it is a link"),
    "an object that was deleted": (
        lambda at: shutil.rmtree(at.home.object),
        "files",
        "is gone from this home's store",
    ),
    "a pointer to another object": (
        lambda at: [
            each.write_text("0" * 64) for each in (at.home.home.path / "store/plans").iterdir()
        ],
        "files",
        "pointer",
    ),
    "a score": (
        lambda at: at.edit(
            at.artifact("evaluation.json", at.evaluation("merged").info.run_id), one_better_score
        ),
        "scores",
        "its documents give",
    ),
    "documents and their score": (
        lambda at: at.edit(
            at.artifact("evaluation.json", at.evaluation("merged").info.run_id), better_documents
        ),
        "scores",
        "the metric zoo_code_bpb/bits_per_byte",
    ),
    "documents, score and metrics": (better_documents_and_metrics, "decision", "another decision"),
    "documents, score and metrics, by the record's key": (
        better_documents_and_metrics,
        "record",
        "were edited",
    ),
    "a metric of the evaluation": (
        lambda at: at.metric(
            at.evaluation("merged").info.run_id, "zoo_code_bpb/bits_per_byte", 1.0
        ),
        "scores",
        "of its run is 1.0",
    ),
    "a metric of the run": (
        lambda at: at.metric(at.run_id, "gain", 0.5),
        "decision",
        "gain is 0.5",
    ),
    "an evaluation that was deleted": (
        lambda at: at.api.delete_run(at.evaluation("base").info.run_id),
        "scores",
        "the evaluation of the base checkpoint is gone",
    ),
    "the decision": (
        lambda at: at.edit(
            at.artifact("decision.json"), lambda value: value.update(verdict="inconclusive")
        ),
        "decision",
        "verdict",
    ),
    "a reason of the decision": (
        lambda at: at.edit(
            at.artifact("decision.json"), lambda value: value.update(reasons=["it is lovely"])
        ),
        "record",
        "were edited",
    ),
    "the rule": (
        lambda at: at.edit(at.artifact("rule.json"), lambda value: value.update(min_gain=0.9)),
        "decision",
        "the rule of the run gives another decision",
    ),
    "what it was compared with": (
        lambda at: at.edit(
            at.artifact("compared.json"),
            lambda value: value.update(
                baseline_digest=value["expert_digests"][0],
                expert_digests=[value["baseline_digest"]],
            ),
        ),
        "decision",
        "the rule of the run gives another decision",
    ),
    "an approval in the run": (forged_approval, "approval", "word of a person"),
    "an approval on the version": (
        lambda at: at.api.set_model_version_tag("model", "3", "mergeflow.approval", "approved"),
        "approval",
        "word of a person",
    ),
    "a table that MLflow shows": (edited_table, "scores", "scores.json, which MLflow shows"),
    "the verdict on the version": (
        lambda at: at.api.set_model_version_tag("model", "2", "mergeflow.verdict", "fell_back"),
        "run",
        "verdict",
    ),
    "the verdict of the run": (
        lambda at: at.api.set_tag(at.run_id, "mergeflow.verdict", "fell_back"),
        "alias",
        "the run's verdict",
    ),
    "the digest on the version": (
        lambda at: at.api.set_model_version_tag("model", "2", "mergeflow.digest", "0" * 64),
        "way",
        "digest",
    ),
    "another run for the version": (swapped_run, "run", "the run's digest"),
    "a run that was deleted": (lambda at: at.api.delete_run(at.run_id), "run", "was deleted"),
    "the input that a run names": (
        lambda at: [
            at.api.delete_tag(at.run_id, tag)
            for tag in at.run.data.tags
            if tag.startswith("mergeflow.input.")
        ],
        "run",
        "inputs",
    ),
    "a version that leads elsewhere": (redirected, "way", "not its model's place"),
    "the alias": (
        lambda at: at.api.set_registered_model_alias("model", "champion", "1"),
        "alias",
        "outside of mergeflow",
    ),
    "a history that was cut": (cut_history, "alias", "are missing"),
    "a line of the history": (
        edited_history,
        "alias",
        "is not the one that the registry remembers",
    ),
    "checkpoint.json": (
        lambda at: at.edit(
            at.described / "checkpoint.json", lambda value: value.update(path="/evil")
        ),
        "description",
        "place",
    ),
    "the place of the model": (
        lambda at: at.api.set_logged_model_tags(at.model_id, {"mergeflow.path": "/evil"}),
        "description",
        "place",
    ),
    "MLmodel": (
        lambda at: verify_nothing(at.described, at.described),
        "description",
        "MLmodel",
    ),
    "the packages that loading installs": (
        lambda at: other_requirements(at.described, at.described),
        "description",
        "requirements.txt",
    ),
    "the loader": (
        lambda at: [appended(each, "\n# evil\n") for each in (at.described / "code").glob("*.py")],
        "description",
        "loader",
    ),
    "the loader, by a name that fits": (loader_with_a_name_that_fits, "description", "MLmodel"),
    "code beside the loader": (
        lambda at: (at.described / "code" / "torch.py").write_text("evil = True"),
        "description",
        "code/torch.py",
    ),
    "the recipe": (
        lambda at: appended(at.artifact("recipe.yaml"), "out_dtype: float16\n"),
        "plan",
        "recipe",
    ),
    "the manifest of the run": (
        lambda at: at.edit(
            at.artifact("manifest.json"), lambda value: value.update(plan_digest="0" * 64)
        ),
        "plan",
        "plan_digest",
    ),
    "the lock": (
        lambda at: at.edit(at.artifact("lock.json"), lambda value: value.update(by="Ada@desk")),
        "lock",
        "the sha256 of lock.json",
    ),
    "the shard size in the lock": (
        lambda at: relocked(at, lambda value: value.update(shard_bytes=1_000_000)),
        "lock",
        "give another plan",
    ),
    "a source in the lock": (
        lambda at: relocked(at, lambda value: value["sources"][0].update(digest="0" * 64)),
        "lock",
        "another digest of base",
    ),
    "the suite in the lock": (
        lambda at: relocked(at, lambda value: value["suite"]["suite"].update(name="easy")),
        "lock",
        "suite in lock.json",
    ),
    "the recipe in the lock": (
        lambda at: relocked(at, lambda value: value["pipeline"]["recipe"].update(seed=7)),
        "lock",
        "recipe in lock.json",
    ),
    "a lock that was deleted": (
        lambda at: at.artifact("lock.json").unlink(),
        "lock",
        "is missing",
    ),
    "an input's model in MLflow": (deleted_model_of_an_input, "parents", "no model of its input"),
}
"""Each with what is done, the check that has to name it, and words of its answer."""
