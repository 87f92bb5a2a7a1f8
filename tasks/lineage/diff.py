"""In what two registered versions differ: recipe, sources, scores, rule, and tensors."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from merge_core.files.digests import DigestMemo
from merge_core.findings import some
from merge_core.operations.tensor_differences import TensorDifferences, tensor_differences
from merge_core.progress import Progress
from merge_core.records import Record
from merge_core.store.objects import object_problems, stored_place
from tasks.lineage.recorded import Recorded, is_deleted
from tasks.lineage.trace import inputs_of_run, merge_of_run
from tasks.registry.addresses import digest_of_version, find_version
from tasks.registry.client import TAG, Registry, open_registry
from tasks.registry.runs import flatten

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

_NAMED = 20
"""Tensors that a person is told one by one."""


class Changed(Record):
    """One thing that is not the same in both; None where one has no such thing."""

    name: str
    first: str | None
    second: str | None


class VersionDifference(Record):
    """In what two versions differ."""

    first: str
    """`models:/NAME/VERSION`."""
    second: str
    digests: tuple[str, str]
    same_checkpoint: bool
    recipe: tuple[Changed, ...]
    sources: tuple[Changed, ...]
    scores: tuple[Changed, ...]
    rule: tuple[Changed, ...]
    made: tuple[Changed, ...]
    """Method, suite, engine, verdict and dates."""
    unknown: tuple[str, ...] = ()
    """What could not be compared, and why."""
    tensors: TensorDifferences | None = None


class _Side:
    """One of the two versions, as MLflow recorded it."""

    def __init__(self, registry: Registry, model_uri: str) -> None:
        version: ModelVersion = find_version(registry, model_uri)
        self.uri = f"models:/{version.name}/{version.version}"
        self.digest = digest_of_version(version)
        recorded = Recorded(registry)
        model = recorded.model(self.digest)
        self.path = model.tags.get(TAG + "path") if model else None
        found = recorded.merge(self.digest)
        run_id = version.tags.get(TAG + "run_id")
        if run_id and (found is None or found.info.run_id != run_id):
            own = registry.client.get_run(run_id)
            found = found if is_deleted(own) and found else own
        self.run: Run | None = found
        self.recipe = _recipe(registry, found) if found else {}

    def parameters(self, prefix: str) -> dict[str, str]:
        run = self.run
        params = run.data.params if run else {}
        return {key: value for key, value in params.items() if key.startswith(prefix)}

    def sources(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for item in inputs_of_run(self.run) if self.run else ():
            found[f"{item.role} {item.reference}"] = item.digest
        return found

    def scores(self) -> dict[str, str]:
        metrics = self.run.data.metrics if self.run else {}
        kept = ("merged/", "improvement/")
        return {
            name: f"{value:.6g}"
            for name, value in metrics.items()
            if name.startswith(kept) or name in ("gain", "gain_low", "gain_high")
        }

    def made(self) -> dict[str, str]:
        if self.run is None:
            return {}
        merge, tags = merge_of_run(self.run), self.run.data.tags
        suite, engine = tags.get(TAG + "suite", ""), tags.get(TAG + "engine", "")
        said = {"method": merge.method, "verdict": merge.verdict, "suite": suite, "engine": engine}
        return {**said, "recorded": merge.started or ""}


def difference(
    first: str, second: str, tracking_uri: str, progress: Progress | None = None
) -> VersionDifference:
    """Compare two versions by what MLflow recorded, and by their weights if both are on this disk.

    Raises:
        MergeflowError: an address names no version that mergeflow registered.
    """
    with open_registry(tracking_uri) as registry:
        one, other = _Side(registry, first), _Side(registry, second)
    unknown = [f"{side.uri} has no merge run here" for side in (one, other) if side.run is None]
    tensors = None
    if one.digest != other.digest:
        problems = [said for side in (one, other) if (said := _not_here(side))]
        unknown += [f"tensors are not compared: {said}" for said in problems]
        if not problems:
            tensors = tensor_differences(Path(one.path or ""), Path(other.path or ""), progress)
    return VersionDifference(
        first=one.uri,
        second=other.uri,
        digests=(one.digest, other.digest),
        same_checkpoint=one.digest == other.digest,
        recipe=_changes(one.recipe, other.recipe),
        sources=_changes(one.sources(), other.sources()),
        scores=_changes(one.scores(), other.scores()),
        rule=_changes(one.parameters("promote."), other.parameters("promote.")),
        made=_changes(one.made(), other.made()),
        unknown=tuple(unknown),
        tensors=tensors,
    )


def difference_lines(found: VersionDifference) -> list[str]:
    """A difference in lines for people, with the tensors that differ most."""
    lines = [f"{found.first} and {found.second}"]
    if found.same_checkpoint:
        lines.append(f"  the same checkpoint, digest {found.digests[0]}")
    for title in ("made", "recipe", "sources", "scores", "rule"):
        changed: tuple[Changed, ...] = getattr(found, title)
        lines += [f"  {title}:"] * bool(changed)
        lines += [
            f"    {each.name}: {_shown(each.first)} -> {_shown(each.second)}" for each in changed
        ]
    lines += [f"  {said}" for said in found.unknown]
    if found.tensors is not None:
        lines += _tensor_lines(found.tensors)
    return lines


def _tensor_lines(tensors: TensorDifferences) -> list[str]:
    changed = tensors.changed
    lines = [f"  tensors: {len(changed)} of {tensors.compared} differ; norm of the difference:"]
    for each in changed[:_NAMED]:
        size = "infinite" if math.isinf(each.relative) else f"{each.relative:.3%}"
        lines.append(f"    {size:>10}  {each.name} (one entry by at most {each.largest:.3g})")
    if len(changed) > _NAMED:
        lines.append(f"    and {len(changed) - _NAMED} more, each by less")
    for words, names in (
        ("only in the first", tensors.only_first),
        ("only in the second", tensors.only_second),
        ("of other shapes, not compared", tensors.other_shape),
        ("stored in other dtypes", tensors.other_dtype),
    ):
        lines += [f"    {words}: {some(names)}"] * bool(names)
    return lines


def _recipe(registry: Registry, run: Run) -> dict[str, str]:
    """The recipe of a run, flattened; its parameters in MLflow where the file is gone."""
    import mlflow

    try:
        with tempfile.TemporaryDirectory(prefix="mergeflow-") as scratch:
            found = registry.client.download_artifacts(run.info.run_id, "recipe.yaml", scratch)
            return flatten("recipe", yaml.safe_load(Path(found).read_text("utf-8")))
    except (OSError, yaml.YAMLError, mlflow.exceptions.MlflowException):
        params = run.data.params.items()
        return {key: value for key, value in params if key.startswith("recipe.")}


def _not_here(side: _Side) -> str | None:
    """Why the weights of a version cannot be read here."""
    if side.path is None or not Path(side.path).is_dir():
        return f"the checkpoint of {side.uri} is not on this machine"
    stored = stored_place(Path(side.path))
    problems = object_problems(stored, DigestMemo(None), afresh=True) if stored else []
    return f"the checkpoint of {side.uri} has changed: {some(problems)}" if problems else None


def _changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[Changed, ...]:
    names = dict.fromkeys([*first, *second])
    return tuple(
        Changed(name=name, first=first.get(name), second=second.get(name))
        for name in names
        if first.get(name) != second.get(name)
    )


def _shown(value: str | None) -> str:
    return "nothing" if value is None else value
