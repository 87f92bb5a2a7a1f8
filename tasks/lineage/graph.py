"""The ancestry of a version as values: checkpoints by digest, and the edges between them.

A graph, and no tree: a checkpoint that ten merges used stands in it once, and an ancestry of a
thousand merges in a row is a list like any other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import cached_property

from pydantic import ConfigDict

from merge_core.records import Record


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
    suite: str | None = None
    """What it was evaluated on."""
    suite_digest: str | None = None
    """Of that suite with its data; None in records of before."""
    gain: float | None = None
    scores: tuple[LineageScore, ...] = ()
    started: str | None = None
    """When the run's record was begun, ISO 8601, UTC."""
    ended: str | None = None
    signed_by: tuple[str, ...] = ()
    """Ids of the keys that are said to have signed it. `mergeflow audit` checks that."""
    deleted: bool = False
    """Somebody deleted the run in MLflow: it is named, and what it said of its inputs is not
    followed."""


class LineageInput(Record):
    """One ingredient of a merge, as that merge named it."""

    digest: str
    role: str
    """`base`, `model` or both, `base+model`."""
    reference: str


class LineageNode(Record):
    """A checkpoint and, when a merge made it, what it was made of."""

    digest: str
    reference: str
    path: str | None = None
    revision: str | None = None
    logged_model_id: str | None = None
    merge: LineageMerge | None = None
    """None for a checkpoint that no recorded merge made."""
    inputs: tuple[LineageInput, ...] = ()


class Lineage(Record):
    """The ancestry of one version of a registered model."""

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    model_uri: str
    tracking_uri: str
    name: str
    version: str
    aliases: tuple[str, ...]
    root: str
    """Digest of the version's own checkpoint."""
    nodes: tuple[LineageNode, ...]
    """Every checkpoint once, the version's own first, then its inputs, and so on."""

    @cached_property
    def by_digest(self) -> dict[str, LineageNode]:
        """The checkpoints by their digests."""
        return {node.digest: node for node in self.nodes}

    @property
    def top(self) -> LineageNode:
        """The version's own checkpoint."""
        return self.by_digest[self.root]

    @property
    def title(self) -> str:
        """The version with its aliases: `models:/zoo/2 @champion`."""
        return f"models:/{self.name}/{self.version}" + "".join(f" @{each}" for each in self.aliases)

    def digests(self) -> tuple[str, ...]:
        """The digest of every checkpoint, the version's own first."""
        return tuple(node.digest for node in self.nodes)

    def edges(self) -> Iterator[tuple[LineageInput, LineageNode]]:
        """Each ingredient with the checkpoint that it went into."""
        for node in self.nodes:
            for item in node.inputs:
                yield item, node

    def levels(self) -> dict[str, int]:
        """How many merges lie between each checkpoint and the version, by the shortest way."""
        found, pending = {self.root: 0}, deque([self.root])
        while pending:
            digest = pending.popleft()
            for item in self.by_digest[digest].inputs:
                if item.digest not in found:
                    found[item.digest] = found[digest] + 1
                    pending.append(item.digest)
        return found
