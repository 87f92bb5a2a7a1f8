"""Does transformers load a checkpoint as it loads the donor? Asked of itself, in a child process.

Models are built on the meta device, so no weight is read: the report says which tensors a model
lacks, has left over, or wants in another shape, and whether each layer is of the kind it was.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.errors import CompatibilityError, StepError
from merge_core.files.digests import digest_of
from merge_core.findings import counted, some
from merge_core.planning.expansion import output_layers
from merge_core.recipes.recipe import Recipe
from merge_core.records import CheckpointManifest, Record, SourceCheckpoint
from merge_core.tensors.stacks import main_stack
from tasks.processes.child import run_child
from tasks.processes.model import OFFLINE, last_lines, model_environment

_MINUTES = 10.0
VERSION = 1
"""Raised when the same checkpoints would give another report."""


class LayerOrigins(Record):
    """Where the layers of a stack come from: reference and number of each, from the first on."""

    prefix: str
    """The beginning of the names of the layers' tensors."""
    layers: tuple[tuple[str, int], ...]


class LoadingReport(Record):
    """What transformers says of a checkpoint, compared with its donor."""

    directory: str
    checked: bool
    reason: str | None = None
    """Why it was not checked."""
    architecture: str | None = None
    """The class that it was loaded as; None too where transformers need not be asked."""
    transformers_version: str
    missing: tuple[str, ...] = ()
    """Tensors that the model wants and the checkpoint has not: they would be random."""
    unexpected: tuple[str, ...] = ()
    """Tensors that the model has no place for, those included that its class ignores silently."""
    mismatched: tuple[str, ...] = ()
    """Tensors that the model wants in another shape."""
    kinds: tuple[str, ...] = ()
    """Layers that are of another kind than where they come from."""
    worse: tuple[str, ...] = ()
    """Sentences about all that the donor does not have alike; empty: it loads as the donor does."""

    @property
    def ok(self) -> bool:
        """Whether nothing is worse than in the donor; true for a model that was not checked."""
        return not self.worse

    @property
    def sentence(self) -> str:
        """The report in one sentence."""
        if not self.checked:
            return f"not checked whether transformers loads it: {self.reason}"
        if self.ok and self.architecture is None:
            return "its config, and its tensors' names and shapes, are the donor's: it loads alike"
        if self.ok:
            return f"transformers {self.transformers_version} loads it as {self.architecture}"
        return "; ".join(self.worse)


def check_loading(
    checkpoint: Path,
    donor: Path | None = None,
    *,
    origins: LayerOrigins | None = None,
    sources: Mapping[str, Path] | None = None,
    scratch: Path,
) -> LoadingReport:
    """Ask transformers how it would load a checkpoint.

    Args:
        donor: the checkpoint to compare with; without one every fault counts.
        origins: for a stack, where its layers come from.
        sources: the directories of what `origins` names.
        scratch: working files go below it and are removed.

    Raises:
        StepError: the process that asks died or took too long.
    """
    if donor is not None and _is_alike(checkpoint, donor):
        return LoadingReport(
            directory=str(checkpoint), checked=True, transformers_version=version("transformers")
        )
    scratch.mkdir(parents=True, exist_ok=True)
    working = Path(tempfile.mkdtemp(prefix="loading-", dir=scratch))
    messages: dict[str, Any] = {}
    job = {
        "checkpoint": str(checkpoint.absolute()),
        "donor": str(donor.absolute()) if donor else None,
        "origins": origins.model_dump() if origins else None,
        "sources": {name: str(path.absolute()) for name, path in (sources or {}).items()},
    }
    log = working / "loading.log"
    try:
        end = run_child(
            "tasks.loading.process",
            job,
            log=log,
            timeout=_MINUTES * 60,
            environment=model_environment(1) | OFFLINE,
            on_message=messages.update,
        )
        shown = "".join(f"\n    | {line}" for line in last_lines(log))
    finally:
        shutil.rmtree(working, ignore_errors=True)
    if "result" not in messages:
        problem = messages.get("problem", {}).get("what")
        ended = "took too long" if end.timed_out else f"ended with status {end.code}"
        raise StepError(
            f"transformers could not be asked how it loads this: {problem or ended}{shown}",
            where=str(checkpoint),
            mend="load it with transformers yourself to see why; it is a fault of that library or"
            " of this machine if the donor fails too",
        )
    return _report(checkpoint, messages["result"])


def raise_for_loading(report: LoadingReport, reference: str) -> None:
    """Refuse a checkpoint that transformers loads worse than its donor.

    Raises:
        CompatibilityError: lists the faults that the donor does not have.
    """
    if report.ok:
        return
    raise CompatibilityError(
        f"transformers would load it, but not as it loads its donor: {report.sentence}",
        where=reference,
        mend="this config does not describe these weights: choose layer ranges that keep each layer"
        " at a number of its kind, or merge whole models; look at config.json in"
        f" {report.directory}",
    )


def origins_of(recipe: Recipe, sources: Mapping[str, SourceCheckpoint]) -> LayerOrigins | None:
    """Where the layers of a recipe's only stack come from; None without one, or of many recipes."""
    stacked = [section for section in recipe.sections if section.stacked]
    if len(stacked) != 1 or recipe.recipes:
        return None
    section = stacked[0]
    if any(reference not in sources for reference, _ in output_layers(section)):
        return None
    names = open_checkpoint(sources[section.leader].directory).tensors
    if section.module is not None:
        names = {name: names[name] for name in names if f".{section.module}." in f".{name}."}
    if not names:
        return None
    prefix, _ = main_stack(names, section.leader)
    return LayerOrigins(prefix=prefix, layers=tuple(output_layers(section)))


def check_merged(
    checkpoint: Path, recipe: Recipe, sources: Mapping[str, SourceCheckpoint], scratch: Path
) -> LoadingReport:
    """Ask transformers how it would load the merge of a recipe, compared with its donor."""
    plain = {name: source for name, source in sources.items() if source.adapter is None}
    paths = {name: source.directory for name, source in plain.items()}
    donor, origins = sources[recipe.donor].directory, origins_of(recipe, plain)
    return check_loading(checkpoint, donor, origins=origins, sources=paths, scratch=scratch)


def loading_key(
    manifest: CheckpointManifest, recipe: Recipe, sources: Mapping[str, SourceCheckpoint]
) -> str:
    """Digest of all that the report of a merge depends on."""
    return digest_of(
        {
            "version": VERSION,
            "checkpoint": manifest.digest,
            "donor": sources[recipe.donor].digest,
            "recipe": recipe.digest,
            "sources": {name: source.digest for name, source in sources.items()},
            "transformers": version("transformers"),
        }
    )


def _is_alike(checkpoint: Path, donor: Path) -> bool:
    """Whether config, names and shapes are the donor's: a report could say nothing else of it."""
    ours, theirs = open_checkpoint(checkpoint), open_checkpoint(donor)

    def said(config: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: said(value) if isinstance(value, dict) else value
            for key, value in config.items()
            if key not in ("dtype", "torch_dtype")
        }

    shapes, others = (
        {name: tensor.shape for name, tensor in each.tensors.items()} for each in (ours, theirs)
    )
    return shapes == others and said(ours.config) == said(theirs.config)


def _report(checkpoint: Path, result: dict[str, Any]) -> LoadingReport:
    found = {key: tuple(result.get(key, ())) for key in ("missing", "unexpected", "mismatched")}
    kinds = tuple(result.get("kinds", ()))
    said = {
        "missing": "has no {tensors} that the model wants, so they would be random",
        "unexpected": "has {tensors} that the model has no place for, so they would be dropped",
        "mismatched": "has {tensors} in another shape than the model wants",
    }
    worse = [
        f"it {said[key].format(tensors=counted(len(names), 'tensor'))}: {some(names)}"
        for key in said
        if (names := result.get("worse", {}).get(key))
    ]
    if result.get("failure"):
        worse.append(f"transformers cannot load it: {result['failure']}")
    worse += [some(kinds)] if kinds else []
    return LoadingReport(
        directory=str(checkpoint),
        checked=result["checked"],
        reason=result.get("reason"),
        architecture=result.get("architecture"),
        transformers_version=version("transformers"),
        kinds=kinds,
        worse=tuple(worse),
        **found,
    )
