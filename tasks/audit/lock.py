"""The lock: what it takes to make the merge again, as the run noted it."""

from __future__ import annotations

import hashlib

from merge_core.errors import MergeflowError
from merge_core.recipes.loading import parse_recipe
from tasks.audit.evidence import Evidence
from tasks.audit.report import Answers
from tasks.evaluation.kept_documents import DIRECTORY, kept_name
from tasks.registry.client import TAG
from tasks.registry.file_list import sha256_of
from tasks.registry.lock import LOCK, Lock
from tasks.registry.moments import moment


def check(evidence: Evidence, answers: Answers) -> None:
    """Its sha256 is the one that the run noted; it gives the manifest's plan and the suite."""
    noted = evidence.run.data.tags.get(TAG + "lock") if evidence.run else None
    content, lock = evidence.file(LOCK), evidence.lock
    if content is None:
        if noted:
            answers.fails("the run's lock.json is missing")
        else:
            answers.unknown("it was registered before locks were kept, or its run is gone")
        return
    answers.same("the sha256 of lock.json", sha256_of(content), noted, "the run")
    if lock is None:
        answers.fails("lock.json cannot be read")
        return
    answers.same(
        "the digest of the suite in lock.json",
        lock.suite_digest,
        evidence.fact("suite_digest"),
        "the version",
    )
    _plan(evidence, lock, answers)
    _names(evidence, lock, answers)
    _suite(evidence, lock, answers)
    _times(lock, answers)
    if not answers.failed:
        answers.holds("lock.json is as the run noted it, and gives the manifest's plan and suite")


def _names(evidence: Evidence, lock: Lock, answers: Answers) -> None:
    """Of which pipeline it was, for which model."""
    register = lock.pipeline.get("register")
    model = register.get("model") if isinstance(register, dict) else None
    if model:
        answers.same("the model in lock.json", model, evidence.version.name, "the version")
    name = lock.pipeline.get("name")
    if name and evidence.tag("pipeline"):
        answers.same("the pipeline in lock.json", name, evidence.tag("pipeline"), "the version")


def _times(lock: Lock, answers: Answers) -> None:
    """The run began before it had decided."""
    begun, decided = moment(lock.started), moment(lock.ended)
    if begun is None or decided is None:
        answers.fails("lock.json says no time at which the run began, or had decided")
    elif decided < begun:
        answers.fails("by lock.json the run had decided before it began")


def _suite(evidence: Evidence, lock: Lock, answers: Answers) -> None:
    """Each file that is kept of the suite has the bytes that its digest is made of."""
    files: dict[str, str] = lock.suite.get("files", {})
    there = evidence.has(DIRECTORY) if files else False
    for name, sha256 in files.items() if there else ():
        content = evidence.file(kept_name(name))
        if content is not None and hashlib.sha256(content).hexdigest() != sha256:
            answers.fails(f"the suite's file {name}, as the run keeps it, is another one than then")


def _plan(evidence: Evidence, lock: Lock, answers: Answers) -> None:
    manifest = evidence.manifest
    if manifest is None:
        return  # `plan` says so
    try:
        recipe = parse_recipe(lock.pipeline.get("recipe", {}))
        for problem in lock.departures(recipe, manifest):
            answers.fails(problem)
    except MergeflowError as error:
        answers.fails(f"the recipe in lock.json is none: {error.what}")
        return
    answers.same("the recipe in lock.json", recipe.digest, manifest.recipe_digest, "the manifest")
