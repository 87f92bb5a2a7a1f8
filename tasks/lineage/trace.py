"""The ancestry of a registered version: version, merge run, inputs, and theirs in turn, by digest.

An input that another merge made is found by its content digest, whatever path or name it was used
under, so stacked merges show their whole ancestry.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tasks.lineage.graph import Lineage, LineageInput, LineageMerge, LineageNode, LineageScore
from tasks.lineage.recorded import Recorded, is_deleted
from tasks.registry.addresses import digest_of_version, find_version
from tasks.registry.client import TAG, Registry, open_registry
from tasks.registry.moments import time_of
from tasks.registry.version_tags import run_of

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion


def lineage(model_uri: str, tracking_uri: str) -> Lineage:
    """The ancestry of `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises:
        MergeflowError: no such model, alias or version (the message names those that exist), or
            one that mergeflow did not register.
    """
    with open_registry(tracking_uri) as registry:
        version = find_version(registry, model_uri)
        root = digest_of_version(version)
        return Lineage(
            model_uri=model_uri,
            tracking_uri=registry.address,
            name=version.name,
            version=str(version.version),
            aliases=tuple(version.aliases),
            root=root,
            nodes=tuple(_nodes(registry, root, version)),
        )


def merge_of_run(run: Run) -> LineageMerge:
    """What a merge run says of itself."""
    tags, metrics = run.data.tags, run.data.metrics
    scores = []
    for name in sorted(metrics):
        role, _, rest = name.partition("/")
        task, _, metric = rest.partition("/")
        if role == "merged" and metric:
            base = metrics.get(f"base/{rest}")
            scores.append(LineageScore(task=task, metric=metric, merged=metrics[name], base=base))
    return LineageMerge(
        run_id=run.info.run_id,
        method=tags.get(TAG + "method", "merge"),
        recipe_digest=tags.get(TAG + "recipe_digest", ""),
        plan_digest=tags.get(TAG + "plan_digest", ""),
        object_id=tags.get(TAG + "object_id", ""),
        verdict=tags.get(TAG + "verdict", ""),
        allow_unrelated=tags.get(TAG + "allow_unrelated") == "true",
        pipeline=tags.get(TAG + "pipeline"),
        prefect_flow_run_id=tags.get(TAG + "prefect_flow_run_id"),
        suite=tags.get(TAG + "suite"),
        suite_digest=tags.get(TAG + "suite_digest"),
        gain=metrics.get("gain"),
        scores=tuple(scores),
        started=_moment(run.info.start_time),
        ended=_moment(run.info.end_time),
        signed_by=tuple(tags.get(TAG + "signed_by", "").split()),
        deleted=is_deleted(run),
    )


def inputs_of_run(run: Run) -> list[LineageInput]:
    """The ingredients that a merge run noted, in the manifest's order; what is no note of ours is
    left out."""
    noted = []
    for tag, text in run.data.tags.items():
        if tag.startswith(TAG + "input."):
            try:
                said: dict[str, Any] = json.loads(text)
                order = int(said["index"])
                names = {key: str(said[key]) for key in LineageInput.model_fields}
            except (ValueError, KeyError, TypeError):
                continue
            noted.append((order, LineageInput(**names)))
    return [item for _, item in sorted(noted, key=lambda each: each[0])]


def _nodes(registry: Registry, root: str, version: ModelVersion) -> list[LineageNode]:
    """Every checkpoint of an ancestry once, level by level."""
    recorded = Recorded(registry)
    nodes: dict[str, LineageNode] = {}
    level: dict[str, LineageInput | None] = {root: None}
    while level:
        recorded.look_up(level)
        further: dict[str, LineageInput | None] = {}
        for digest, noted in level.items():
            merge, inputs = _made_by(registry, recorded, digest, None if nodes else version)
            nodes[digest] = _node(recorded, digest, noted, merge, inputs)
            for item in inputs:
                further.setdefault(item.digest, item)
        level = {digest: item for digest, item in further.items() if digest not in nodes}
    return list(nodes.values())


def _made_by(
    registry: Registry, recorded: Recorded, digest: str, version: ModelVersion | None
) -> tuple[LineageMerge | None, tuple[LineageInput, ...]]:
    """The merge that made a checkpoint, and its ingredients.

    Args:
        version: the one that is asked about, whose own run comes before others of the same digest.
    """
    own = run_of(registry, version) if version else None
    run = own if own is not None and not is_deleted(own) else recorded.merge(digest) or own
    if run is not None:
        merge = merge_of_run(run)
        return merge, () if merge.deleted else tuple(inputs_of_run(run))
    run_id = version.tags.get(TAG + "run_id") if version else None
    if version is None or run_id is None:
        return None, ()
    return _said_by(version, run_id), ()


def _said_by(version: ModelVersion, run_id: str) -> LineageMerge:
    """What a version still says of a run of which nothing is left."""
    tags = version.tags
    return LineageMerge(
        run_id=run_id,
        method=tags.get(TAG + "method", "merge"),
        recipe_digest=tags.get(TAG + "recipe_digest", ""),
        plan_digest=tags.get(TAG + "plan_digest", ""),
        object_id=tags.get(TAG + "object_id", ""),
        verdict=tags.get(TAG + "verdict", ""),
        pipeline=tags.get(TAG + "pipeline"),
        deleted=True,
    )


def _node(
    recorded: Recorded,
    digest: str,
    noted: LineageInput | None,
    merge: LineageMerge | None,
    inputs: tuple[LineageInput, ...],
) -> LineageNode:
    model = recorded.model(digest)
    tags: dict[str, str] = dict(model.tags) if model else {}
    return LineageNode(
        digest=digest,
        reference=(noted.reference if noted else "") or tags.get(TAG + "reference", digest),
        path=tags.get(TAG + "path"),
        revision=tags.get(TAG + "revision"),
        logged_model_id=str(model.model_id) if model else None,
        merge=merge,
        inputs=inputs,
    )


def _moment(milliseconds: int | None) -> str | None:
    try:
        return time_of(milliseconds).isoformat(timespec="seconds") if milliseconds else None
    except ValueError:  # in no year that there is: the audit says so
        return None
