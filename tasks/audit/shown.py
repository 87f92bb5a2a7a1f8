"""What MLflow's pages show of a version and its run, made again from the record.

Runs of a mergeflow that did not list their files are held to what they say alone: their names of
parameters and metrics may have been others.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from merge_core.findings import printable
from merge_core.records import SourceCheckpoint
from merge_core.text.markdown import code, inline
from merge_core.text.plain import LONGEST
from tasks.audit import look_alikes, shown_evaluations, shown_model
from tasks.audit.evidence import Evidence
from tasks.audit.report import Answers
from tasks.registry.client import TAG
from tasks.registry.datasets import datasets_of
from tasks.registry.facts import MergeFacts
from tasks.registry.file_list import FILES_TAG
from tasks.registry.moments import CLOCK, moment, time_of
from tasks.registry.runs import input_tags, metrics_of_run, params_of_run, tags_of_run
from tasks.registry.version_tags import OF_MERGES

if TYPE_CHECKING:
    from mlflow.entities import Run

_CLOSE = 1e-9
_LONGEST_DESCRIPTION = 5000
_TAGS = ("kind", "model", "engine", "method", "baseline", "candidates", "allow_unrelated", "suite")
"""Tags of a run that nothing else compares."""
_OF_RUNS = frozenset(
    (
        *_TAGS,
        *("registration", "recipe_digest", "plan_digest", "object_id", "digest", "base_digest"),
        *("verdict", "promote", "pipeline", "suite_digest", "lock", "files", "lineage"),
        *("recorded", "previous_champion", "signed_by"),
        *("approval", "approval_by", "approval_name", "approval_at", "approval_comment"),
    )
)
_FAMILIES = ("input.", "prefect_")
"""All of a merge's run."""


def check_base(evidence: Evidence, answers: Answers) -> None:
    """The version's description and tags, and the scores that its model has."""
    look_alikes.tags_of(evidence.version.tags, "the version", answers)
    reference, digest = evidence.tag("reference"), evidence.digest or ""
    said = str(evidence.version.description or "")
    if (
        reference is not None
        and f"{code(reference)}, digest {digest[:12]}: the fallback" not in said
    ):
        answers.fails("the version's description is not that of this base")
    shown_model.check_scores(evidence, answers)
    shown_model.check_names(evidence, answers)
    if not answers.failed:
        answers.holds("its description in MLflow, its tags and its scores are what was recorded")


def check(evidence: Evidence, answers: Answers) -> None:
    """Description, tags, parameters, metrics, data sets and times say what the record says."""
    run, decision = evidence.run, evidence.decision
    if run is None or decision is None:
        answers.unknown("there is no record that the pages could be compared with")
        return
    look_alikes.tags_of(evidence.version.tags, "the version", answers)
    look_alikes.tags_of(run.data.tags, "the run", answers)
    listed = FILES_TAG in run.data.tags
    if listed:
        look_alikes.known_tags(evidence.version.tags, OF_MERGES, (), "the version", answers)
        look_alikes.known_tags(run.data.tags, _OF_RUNS, _FAMILIES, "the run", answers)
    _description(evidence, answers)
    facts = _facts(evidence)
    if facts is not None:
        _params(run, facts, listed, answers)
        _metrics(run.data.metrics, metrics_of_run(facts), listed, answers)
        _run_tags(evidence, run, facts, listed, answers)
    _datasets(evidence, run, listed, answers)
    _steps(evidence, [run, *(each.run for each in evidence.evaluations)], listed, answers)
    shown_model.check_scores(evidence, answers)
    shown_model.check_names(evidence, answers)
    if listed:
        shown_evaluations.check(evidence, run, answers)
        shown_model.check_facts(evidence, answers)
    _times(evidence, run, answers)
    if not answers.failed:
        answers.holds("MLflow's pages show what the record says: words, numbers, data sets, times")


def _facts(evidence: Evidence) -> MergeFacts | None:
    """The facts that the run was written from, as far as the pages need them."""
    run, manifest, decision = evidence.run, evidence.manifest, evidence.decision
    recipe = evidence.file("recipe.yaml")
    reports = [each.report for each in evidence.evaluations if each.report is not None]
    merged = manifest is not None and any(
        each.checkpoint_digest == manifest.digest for each in reports
    )
    if run is None or manifest is None or decision is None or recipe is None or not merged:
        return None  # which other checks say
    base = run.data.tags.get(TAG + "base_digest", "")
    return MergeFacts(
        model_name=evidence.version.name,
        recipe_yaml=recipe.decode("utf-8", "replace"),
        recipe_digest=manifest.recipe_digest,
        manifest=manifest,
        base=SourceCheckpoint(reference="", path="", digest=base, files=()),
        models=(),
        reports=reports,
        decision=decision,
        pipeline_name=run.data.tags.get(TAG + "pipeline"),
    )


def _description(evidence: Evidence, answers: Answers) -> None:
    """The version's: verdict first, then the reasons. More may stand there."""
    decision, said = evidence.decision, str(evidence.version.description or "")
    if decision is None:
        return
    verdict = decision.verdict.replace("_", " ").capitalize()
    wanted = [inline(reason, LONGEST) for reason in decision.reasons]
    whole = len(said) >= _LONGEST_DESCRIPTION - 1  # then it was cut
    if not said.startswith(f"{verdict}: "):
        answers.fails("the version's description does not begin with the verdict")
    elif any(reason not in said for reason in wanted) and not whole:
        answers.fails("the version's description does not give the reasons of the decision")


def _params(run: Run, facts: MergeFacts, listed: bool, answers: Answers) -> None:
    made, said = params_of_run(facts), run.data.params
    for name in sorted(made.keys() | said.keys()):
        if name in made and name in said:
            answers.same(f"the run's parameter {name}", said[name], made[name], "the record")
        elif listed:
            what = "is missing" if name in made else "is none of the record's"
            answers.fails(f"the run's parameter {printable(name)} {what}")


def _metrics(
    said: Mapping[str, float], made: Mapping[str, float], listed: bool, answers: Answers
) -> None:
    for name in sorted(made.keys() | said.keys()):
        if name in made and name in said:
            if not _alike(said[name], made[name]):
                answers.fails(
                    f"the metric {name} is {said[name]}, the record says {made[name]:.6g}"
                )
        elif listed:
            what = "is missing" if name in made else "is none of the record's"
            answers.fails(f"the metric {printable(name)} {what}")


def _run_tags(
    evidence: Evidence, run: Run, facts: MergeFacts, listed: bool, answers: Answers
) -> None:
    made, said = tags_of_run(facts), run.data.tags
    for key in _TAGS:
        if listed or TAG + key in said:
            answers.same(f"the run's {key}", said.get(TAG + key), made.get(TAG + key), "the record")
    for tag, text in input_tags(facts.manifest).items():
        noted, wanted = _object(said.get(tag, "")), _object(text)
        shared = noted.keys() & wanted.keys()
        if any(noted[key] != wanted[key] for key in shared):
            answers.fails(f"what the run's {tag} says of an input is not what the manifest says")
    if not listed:
        return
    page = evidence.file("decision.md")
    note = said.get("mlflow.note.content", "")
    link = re.match(r"Run in Prefect: [^\n]*\n\n", note)
    shown = note[link.end() :] if link else note
    if page is not None and (not shown or not page.decode("utf-8", "replace").startswith(shown)):
        answers.fails("the run's description is not its decision.md")
    environment = _object((evidence.file("environment.json") or b"").decode("utf-8", "replace"))
    commit = said.get("mlflow.source.git.commit")
    answers.same("the run's commit", commit, environment.get("code_commit"), "environment.json")
    if run.info.status != "FINISHED":
        answers.fails(f"the run is {run.info.status}, and its record is finished")


def _datasets(evidence: Evidence, run: Run, listed: bool, answers: Answers) -> None:
    """Names, digests and numbers of documents. Where the documents are from is not compared: of
    two suites with the same documents MLflow keeps what the first one said."""
    reports = [each.report for each in evidence.evaluations if each.report is not None]
    of_runs = [("the run", run, reports)]
    of_runs += [
        (each.role, each.run, [each.report]) for each in evidence.evaluations if each.report
    ]
    for whose, each, of in of_runs:
        given = each.inputs.dataset_inputs if each.inputs else []
        if not given and not listed:
            continue
        said = {_dataset(item.dataset) for item in given}
        made = {_dataset(item.dataset) for item in datasets_of(of)}
        if said != made:
            names = ", ".join(sorted({name for name, *_ in said ^ made}))
            answers.fails(f"{whose}: the data sets in MLflow are not the documents of {names}")


def _dataset(dataset: object) -> tuple[str, str, str, str]:
    profile = _object(str(getattr(dataset, "profile", "") or ""))
    source = _object(str(getattr(dataset, "source", "") or ""))
    name, digest = str(getattr(dataset, "name", "")), str(getattr(dataset, "digest", ""))
    return name, digest, str(profile.get("documents")), str(source.get("task"))


def _steps(evidence: Evidence, runs: Iterable[Run], listed: bool, answers: Answers) -> None:
    """Every metric was written once: a curve of several points is somebody else's."""
    for run in runs:
        for name, value in sorted(run.data.metrics.items()):
            points = evidence.registry.client.get_metric_history(run.info.run_id, name)
            if len({(each.step, each.value) for each in points}) > 1 or any(
                not _alike(each.value, value) for each in points
            ):
                answers.fails(f"the metric {name} was written again, with another value or step")
            elif listed and len(points) > 1:
                answers.fails(f"the metric {name} was written again, at another time")


def _times(evidence: Evidence, run: Run, answers: Answers) -> None:
    """A run begins when the lock has ended, and ends later."""
    begun, ended = time_of(run.info.start_time), time_of(run.info.end_time)
    if ended < begun:
        answers.fails("the run ended before it began")
    first = evidence.run_named(evidence.version.run_id) if evidence.version.run_id else None
    made = time_of(evidence.version.creation_timestamp)
    if first is not None and made < time_of(first.info.start_time) - CLOCK:
        answers.fails("the version was registered before the run that made it began")
    decided = moment(evidence.lock.ended) if evidence.lock else None
    if decided is not None and begun < decided - CLOCK:
        answers.fails("the run began before there was a decision to record, as lock.json says")


def _object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _alike(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_CLOSE, abs_tol=1e-12)
