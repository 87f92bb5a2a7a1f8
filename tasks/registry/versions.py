"""Versions of the registered model and the alias `champion`, which is moved last of all.

The base is a version too, so falling back is an alias move. A candidate that regressed stays
visible as a version, tagged with its verdict, without the alias.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from merge_core.records import CheckpointManifest, SourceCheckpoint
from merge_core.text.markdown import code, inline
from merge_core.text.plain import LONGEST, plain
from tasks.records import Decision, RegisteredVersion
from tasks.registry.client import MAX_TAG_VALUE, TAG, Registry, process_tracking_uri
from tasks.registry.version_tags import (
    fact_of,
    keep_on_run,
    tags_of_merge,
    take_off_former_tags,
)
from tasks.roles import MERGE, Roles

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
"""The alias that says which version to serve."""

_APPROVAL = TAG + "approval"

_MAX_DESCRIPTION = 5000


def ensure_registered_model(registry: Registry, name: str) -> None:
    """Create the registered model unless it exists."""
    from mlflow.exceptions import MlflowException

    try:
        registry.client.create_registered_model(
            name,
            tags={TAG + "model": "true"},
            description=f"Checkpoints merged by mergeflow. `models:/{name}@{CHAMPION}` is the one"
            " to serve: the last merge that passed its evaluation, else what it was compared with."
            f" `mergeflow history {name}` tells who served when, `mergeflow lineage"
            f" models:/{name}@{CHAMPION}` what it was made of.",
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def ensure_base_version(
    registry: Registry, name: str, base: SourceCheckpoint, model_id: str, roles: Roles = MERGE
) -> ModelVersion:
    """The version of the base checkpoint, the one to fall back to."""
    called = "Base checkpoint" if roles == MERGE else roles.baseline.capitalize()
    tags = {
        "digest": base.digest,
        "role": "base",
        "reference": plain(base.reference),
        "path": base.path,
    }
    return _ensure_version(
        registry,
        name,
        model_id,
        tags,
        description=f"{called} {code(base.reference)}, digest {base.short}: the fallback.",
        rewrite=False,
    )


def ensure_candidate_version(
    registry: Registry,
    name: str,
    manifest: CheckpointManifest,
    model_id: str,
    run_id: str,
    decision: Decision,
    pipeline: str,
) -> ModelVersion:
    """The version of a merged checkpoint: tagged with its verdict, described with the reasons."""
    verdict = decision.verdict.replace("_", " ").capitalize()
    odd = ", of models that are not related" if manifest.allow_unrelated else ""
    # The list of versions shows the beginning, and as plain text.
    first = f"{verdict}: {inline(manifest.method)}{odd}, digest {manifest.as_source().short}"
    reasons = "".join(f"\n* {inline(reason, LONGEST)}" for reason in decision.reasons)
    before = version_of_checkpoint(registry, name, manifest.digest, manifest.object_id)
    if before is not None and before.tags.get(TAG + "run_id") == run_id:
        keep_on_run(registry, before, run_id)
    version = _ensure_version(
        registry,
        name,
        model_id,
        tags_of_merge(manifest.digest, decision, run_id, pipeline),
        description=f"{first}\n{reasons}"[:_MAX_DESCRIPTION],
        rewrite=True,
        run_id=run_id,
        object_id=manifest.object_id,
    )
    if decision.approval is None:
        forget_approval(registry, version, decision)
    take_off_former_tags(registry, version)
    return registry.client.get_model_version(name, str(version.version))


def forget_approval(registry: Registry, version: ModelVersion, decision: Decision) -> None:
    """Remove a person's answer about an earlier decision on the same checkpoint.

    The run of that decision keeps it; here it would look like a word on the present one.
    """
    if decision.promote and str(version.version) == champion_version(registry, version.name):
        return  # an approval is why it serves, and goes on to
    for tag in sorted(version.tags):
        if tag == _APPROVAL or tag.startswith(_APPROVAL + "_"):
            registry.client.delete_model_version_tag(version.name, str(version.version), tag)


def champion_version(registry: Registry, name: str) -> str | None:
    """The version that holds the alias, or None when no version does."""
    aliases = registry.client.get_registered_model(name).aliases
    return str(aliases[CHAMPION]) if CHAMPION in aliases else None


def as_record(
    version: ModelVersion, model_id: str | None, champion: str | None
) -> RegisteredVersion:
    """An MLflow model version as the record that flows on."""
    return RegisteredVersion(
        name=version.name,
        version=str(version.version),
        digest=version.tags.get(TAG + "digest", ""),
        alias=CHAMPION if str(version.version) == champion else None,
        run_id=version.tags.get(TAG + "run_id") or version.run_id or None,
        logged_model_id=model_id,
    )


def version_of_checkpoint(
    registry: Registry, name: str, digest: str, object_id: str | None = None
) -> ModelVersion | None:
    """The oldest version of a registered model that has this checkpoint digest.

    Args:
        object_id: a version of another object does not count: its run says how that was made, of
            other sources or by another recipe.
    """
    found = registry.client.search_model_versions(
        f"name = '{name}' and tags.`{TAG}digest` = '{digest}'"
    )
    mine = (
        each
        for each in found
        if object_id is None or fact_of(registry, each, "object_id") in (object_id, None)
    )
    return min(mine, key=lambda version: int(version.version), default=None)


def _ensure_version(
    registry: Registry,
    name: str,
    model_id: str,
    tags: Mapping[str, str],
    *,
    description: str,
    rewrite: bool,
    run_id: str | None = None,
    object_id: str | None = None,
) -> ModelVersion:
    """Find a version by digest and object or create it; with `rewrite`, bring its description up
    to date."""
    client = registry.client
    wanted = {TAG + key: value[:MAX_TAG_VALUE] for key, value in tags.items() if value}
    version = version_of_checkpoint(registry, name, tags["digest"], object_id)
    if version is None:
        with process_tracking_uri(registry):
            client.create_model_version(
                name,
                source=f"models:/{model_id}",
                run_id=run_id,
                tags=wanted,
                description=description,
                model_id=model_id,
            )
        version = version_of_checkpoint(registry, name, tags["digest"], object_id)
        assert version is not None, "a version that was just created is found by its digest"
    _link(registry, model_id, name, str(version.version))
    for key, value in wanted.items():
        if version.tags.get(key) != value and (rewrite or key not in version.tags):
            client.set_model_version_tag(name, version.version, key, value)
    if rewrite and version.description != description:
        client.update_model_version(name, version.version, description)
    return client.get_model_version(name, version.version)


def _link(registry: Registry, model_id: str, name: str, version: str) -> None:
    """Let MLflow's page of a LoggedModel show its version (a server notes this by itself)."""
    tags = registry.client.get_logged_model(model_id).tags
    noted = json.loads(tags.get("mlflow.modelVersions", "[]"))
    if not any(item["name"] == name and str(item["version"]) == version for item in noted):
        noted.append({"name": name, "version": version})
        registry.client.set_logged_model_tags(model_id, {"mlflow.modelVersions": json.dumps(noted)})
