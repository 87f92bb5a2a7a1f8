"""What was merged: object id, recipe and plan, as version, run, manifest and disk say them."""

from __future__ import annotations

from merge_core.errors import MergeflowError
from merge_core.files.digests import DigestMemo
from merge_core.output.manifest import read_manifest
from merge_core.output.model_files import RECIPE_NAME
from merge_core.recipes.loading import parse_recipe
from merge_core.records import CheckpointManifest
from merge_core.store.objects import object_id_of, object_problems, without_place
from tasks.audit.evidence import Evidence
from tasks.audit.report import Answers
from tasks.registry.client import TAG

_SAID_TWICE = ("digest", "object_id", "recipe_digest", "plan_digest", "method")


def check(evidence: Evidence, answers: Answers) -> None:
    """Five facts, each of which four places have to say alike; the recipe's digest is computed."""
    run, manifest = evidence.run, evidence.manifest
    if run is None:
        answers.unknown("there is no run to compare with")
        return
    if manifest is None:
        answers.fails("the run's manifest.json is missing, or cannot be read")
        return
    for key in _SAID_TWICE:
        expected = getattr(manifest, key)
        on_version = evidence.tag(key)
        if on_version is not None or key == "digest":  # versions of before have them all
            answers.same(f"the version's {key}", on_version, expected, "the run's manifest")
        said = run.data.tags.get(TAG + key)
        answers.same(f"the run's {key}", said, expected, "its own manifest")
    _recipe(evidence, manifest, answers)
    _disk(evidence, manifest, answers)
    if not answers.failed:
        answers.holds("object id, recipe and plan are the same in version, run, manifest and store")


def _recipe(evidence: Evidence, manifest: CheckpointManifest, answers: Answers) -> None:
    content = evidence.file("recipe.yaml")
    if content is None:
        answers.fails("the run's recipe.yaml is missing")
        return
    try:
        digest = parse_recipe(content.decode("utf-8", "replace")).digest
    except MergeflowError as error:
        answers.fails(f"the run's recipe.yaml is no recipe: {error.what}")
        return
    answers.same(
        "the digest of the run's recipe.yaml", digest, manifest.recipe_digest, "the manifest"
    )


def _disk(evidence: Evidence, manifest: CheckpointManifest, answers: Answers) -> None:
    checkpoint = evidence.checkpoint
    if checkpoint is None or not checkpoint.directory.is_dir():
        return  # `files` says so
    directory = checkpoint.directory
    if object_id_of(directory) not in (None, manifest.object_id):
        # The same model files, made otherwise: both objects have one place in MLflow.
        directory = directory.with_name(manifest.object_id)
        if not directory.is_dir():
            answers.unknown(f"its own object is not here: {directory}; one with the same files is")
            return
        for problem in object_problems(directory, DigestMemo(None), afresh=True):
            answers.fails(f"its own object: {problem}: {directory}")
    try:
        on_disk = read_manifest(directory)
    except MergeflowError as error:
        answers.fails(f"the checkpoint's own manifest cannot be read: {error.what}")
        return
    if without_place(on_disk) != without_place(manifest):
        answers.fails("the checkpoint's own manifest is another one than the run keeps")
    recipe = directory / RECIPE_NAME
    kept = evidence.file("recipe.yaml")
    if kept is not None and (not recipe.is_file() or recipe.read_bytes() != kept):
        answers.fails("the recipe beside the checkpoint is another one than the run keeps")
