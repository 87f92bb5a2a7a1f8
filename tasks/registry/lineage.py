"""The ancestry of a registered version: version, merge run, inputs, and theirs in turn, by digest.

An input that another merge made is found by its content digest, whatever path or name it was used
under, so stacked merges show their whole tree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from merge_core.errors import MergeflowError, did_you_mean
from merge_core.records import Record
from merge_core.text.markdown import mermaid_label
from merge_core.text.plain import plain
from tasks.registry.client import TAG, Registry, mergeflow_experiments, open_registry
from tasks.registry.models import find_logged_model

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

_ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
_SHOWN = 12


class LineageScore(Record):
    """One task's score of a merged checkpoint, with the baseline's on the same documents."""

    task: str
    metric: str
    merged: float
    base: float | None = None


class LineageMerge(Record):
    """The merge run that made a checkpoint."""

    run_id: str
    method: str
    recipe_digest: str
    plan_digest: str
    object_id: str
    verdict: str
    allow_unrelated: bool = False
    """Whether the recipe said that its checkpoints need not have one origin."""
    pipeline: str | None = None
    prefect_flow_run_id: str | None = None
    gain: float | None = None
    scores: tuple[LineageScore, ...] = ()


class LineageNode(Record):
    """A checkpoint and, when a merge made it, what it was made of."""

    digest: str
    reference: str
    path: str | None = None
    revision: str | None = None
    role: str
    """`version` for the root, else its part in the merge above: `base`, `model` or both."""
    logged_model_id: str | None = None
    merge: LineageMerge | None = None
    """None for a checkpoint that no recorded merge made."""
    inputs: tuple[LineageNode, ...] = ()
    repeated: bool = False
    """Shown in full elsewhere in the tree."""


class Lineage(Record):
    """The ancestry of one version of a registered model."""

    model_uri: str
    tracking_uri: str
    name: str
    version: str
    aliases: tuple[str, ...]
    root: LineageNode

    def digests(self) -> tuple[str, ...]:
        """Every distinct checkpoint digest in the tree, root first."""
        found: dict[str, None] = {}
        pending = [self.root]
        while pending:
            node = pending.pop(0)
            found[node.digest] = None
            pending.extend(node.inputs)
        return tuple(found)


def lineage(model_uri: str, tracking_uri: str) -> Lineage:
    """The ancestry of `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises:
        MergeflowError: no such model, alias or version (the message names those that exist), or
            one that mergeflow did not register.
    """
    address = _ADDRESS.fullmatch(model_uri)
    if address is None:
        raise MergeflowError(
            "this is not the address of a registered version",
            where=model_uri,
            mend="write models:/NAME@champion or models:/NAME/3",
        )
    with open_registry(tracking_uri) as registry:
        version = _find_version(registry, model_uri, address)
        digest = version.tags.get(TAG + "digest")
        if not digest:
            raise MergeflowError(
                "this version was not registered by mergeflow, so its ancestry is not known",
                where=model_uri,
            )
        run_id = version.tags.get(TAG + "run_id")
        made_by = registry.client.get_run(run_id) if run_id else None
        return Lineage(
            model_uri=model_uri,
            tracking_uri=registry.address,
            name=version.name,
            version=str(version.version),
            aliases=tuple(version.aliases),
            root=_node(registry, digest, "version", None, seen=set(), run=made_by),
        )


def render_lineage(lineage: Lineage) -> str:
    """The ancestry as a plain text tree, digests in full."""
    aliases = "".join(f" @{alias}" for alias in lineage.aliases)
    lines = [plain(f"models:/{lineage.name}/{lineage.version}{aliases}")]
    _render(lineage.root, "", "", lines)
    return "\n".join(lines) + "\n"


def lineage_mermaid(lineage: Lineage) -> str:
    """The ancestry as a mermaid flowchart, for a markdown page."""
    lines = ["flowchart LR"]
    names: dict[str, str] = {}
    edges: dict[str, None] = {}

    def visit(node: LineageNode) -> str:
        name = names.get(node.digest)
        if name is None:
            name = names[node.digest] = f"n{len(names)}"
            title = node.merge.method if node.merge else _last(node.reference)
            shape = ("([", "])") if node.merge else ("[", "]")
            label = f"{mermaid_label(title)}<br/>{mermaid_label(node.digest[:_SHOWN])}"
            lines.append(f'  {name}{shape[0]}"{label}"{shape[1]}')
        for item in node.inputs:
            edges[f"  {visit(item)} -->|{mermaid_label(item.role)}| {name}"] = None
        return name

    root = visit(lineage.root)
    aliases = "".join(f" @{alias}" for alias in lineage.aliases)
    title = f"models:/{lineage.name}/{lineage.version}{aliases}"
    lines.append(f'  {root} ==> version["{mermaid_label(title)}"]')
    return "\n".join([*lines, *edges]) + "\n"


def _find_version(registry: Registry, model_uri: str, address: re.Match[str]) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    client, name = registry.client, address["name"]
    try:
        model = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = [model.name for model in client.search_registered_models()]
        raise MergeflowError(
            f"no model '{name}' is registered",
            where=f"{model_uri} at {registry.address}",
            mend=did_you_mean(name, known) if known else "run a pipeline that registers one",
        ) from None
    if address["alias"]:
        aliases = {alias: str(held) for alias, held in model.aliases.items()}
        if address["alias"] not in aliases:
            held_now = [f"@{alias} (version {held})" for alias, held in aliases.items()]
            raise MergeflowError(
                f"no version of '{name}' has the alias '{address['alias']}'",
                where=model_uri,
                mend=f"aliases here: {', '.join(held_now) or 'none yet'}",
            )
        return client.get_model_version(name, aliases[address["alias"]])
    versions = client.search_model_versions(f"name = '{name}'")
    for version in versions:
        if str(version.version) == address["version"]:
            return client.get_model_version(name, address["version"])
    numbers = sorted(int(version.version) for version in versions)
    raise MergeflowError(
        f"'{name}' has no version {address['version']}",
        where=model_uri,
        mend=f"versions here: {', '.join(map(str, numbers)) or 'none yet'}",
    )


def _node(
    registry: Registry,
    digest: str,
    role: str,
    noted: Mapping[str, Any] | None,
    *,
    seen: set[str],
    run: Run | None = None,
) -> LineageNode:
    """One checkpoint with its ancestors; `seen` holds the digests already shown in full."""
    model = find_logged_model(registry, digest)
    tags: dict[str, str] = dict(model.tags) if model else {}
    facts: dict[str, Any] = {
        "digest": digest,
        "reference": (noted or {}).get("reference") or tags.get(TAG + "reference", digest),
        "path": tags.get(TAG + "path"),
        "revision": tags.get(TAG + "revision"),
        "role": role,
        "logged_model_id": str(model.model_id) if model else None,
    }
    run = run or _producing_run(registry, digest)
    if run is None:
        return LineageNode(**facts)
    if digest in seen:
        return LineageNode(**facts, merge=_merge(run), repeated=True)
    seen.add(digest)
    inputs = tuple(
        _node(registry, item["digest"], item["role"], item, seen=seen) for item in _inputs(run)
    )
    return LineageNode(**facts, merge=_merge(run), inputs=inputs)


def _producing_run(registry: Registry, digest: str) -> Run | None:
    """The latest recorded merge whose output has this digest."""
    experiments = mergeflow_experiments(registry)
    if not experiments:
        return None
    found = registry.client.search_runs(
        experiments,
        f"tags.`{TAG}kind` = 'merge' and tags.`{TAG}digest` = '{digest}'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    return found[0] if found else None


def _inputs(run: Run) -> list[dict[str, Any]]:
    """The ingredients a merge run noted, in the manifest's order."""
    prefix = TAG + "input."
    noted = [json.loads(text) for tag, text in run.data.tags.items() if tag.startswith(prefix)]
    return sorted(noted, key=lambda item: int(item["index"]))


def _merge(run: Run) -> LineageMerge:
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
        gain=metrics.get("gain"),
        scores=tuple(scores),
    )


def _render(node: LineageNode, lead: str, indent: str, lines: list[str]) -> None:
    role = "" if node.role == "version" else f"{node.role}: "
    kind = f"{node.merge.method} merge" if node.merge else "checkpoint"
    lines.append(f"{lead}{plain(role + node.reference)}")
    details = [f"{kind}, digest {node.digest}"]
    if node.revision:
        details.append(f"revision {node.revision}")
    if node.merge and node.repeated:
        details.append("(its ancestry is shown above)")
    elif node.merge:
        details += _merge_lines(node.merge)
    stem = "│ " if node.inputs else "  "
    lines += [f"{indent}{stem}{plain(detail)}" for detail in details]
    for index, item in enumerate(node.inputs):
        last = index == len(node.inputs) - 1
        _render(
            item, indent + ("└─ " if last else "├─ "), indent + ("   " if last else "│  "), lines
        )


def _merge_lines(merge: LineageMerge) -> list[str]:
    lines = [f"recipe {merge.recipe_digest}", f"run {merge.run_id}"]
    if merge.allow_unrelated:
        lines.append("unrelated weights were allowed (allow_unrelated)")
    gain = "" if merge.gain is None else f", gain {merge.gain:+.2%}"
    lines.append(f"verdict {merge.verdict.replace('_', ' ')}{gain}")
    for score in merge.scores:
        base = "" if score.base is None else f" (baseline {score.base:.4f})"
        lines.append(f"{score.task} {score.metric} {score.merged:.4f}{base}")
    return lines


def _last(reference: str) -> str:
    return reference.rstrip("/").rpartition("/")[2] or reference
