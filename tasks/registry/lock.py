"""The lock of a merge: what it takes to make it again, beside recipe, rule and manifest.

`lock.json` lies with the merge's run in MLflow and not in the object, whose bytes say what was
merged and not where or when: the same object may be made at two places. Its sha256 is a tag of the
run, and what it says is held against the manifest, whose plan digest covers all that decides bytes.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from merge_core.files.digests import digest_of, model_digest
from merge_core.planning.plan import plan_key
from merge_core.recipes.recipe import Recipe
from merge_core.records import CheckpointManifest, Record, SourceCheckpoint

LOCK = "lock.json"
"""Among the files of a merge's run."""


class LockedPlace(Record):
    """A directory that a merge read: where it was, and what it held."""

    reference: str
    """As it was written."""
    path: str
    revision: str | None = None
    """The Hub commit that the files come from."""
    version: str | None = None
    """`models:/NAME/VERSION`: what an alias, or a number, of a registered model led to."""
    digest: str


class LockedSource(Record):
    """A checkpoint that a merge used."""

    reference: str
    """As the recipe writes it."""
    digest: str
    """As the manifest has it. With an adapter it covers both; of a first checkpoint with an adapter
    it is that of the two written out as one."""
    places: tuple[LockedPlace, ...]
    """The checkpoint, and the LoRA adapter that is added to it, if there is one."""

    @classmethod
    def of(cls, source: SourceCheckpoint, version: str | None = None) -> LockedSource:
        """What is locked of a checkpoint as it was found.

        Args:
            version: what a reference to a registered model led to.
        """
        adapter = source.adapter
        places = [
            LockedPlace(
                reference=source.reference.removesuffix(f"+{adapter.reference}" if adapter else ""),
                path=source.path,
                revision=source.revision,
                version=version,
                digest=model_digest(source.files) if adapter else source.digest,
            )
        ]
        if adapter is not None:
            fields = adapter.model_dump(exclude={"files"})
            places.append(LockedPlace.model_validate(fields))
        return cls(reference=source.reference, digest=source.digest, places=tuple(places))

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter is added."""
        return len(self.places) > 1


class LockedCalibration(Record):
    """What was measured of a checkpoint on calibration data."""

    reference: str
    digest: str
    """Of the measurements, which decide bytes of the merge."""
    data: str
    """Absolute path of the data."""
    sha256: str
    """Of the data."""


class Lock(Record):
    """What decided a merge, as it was when it was registered."""

    sources: tuple[LockedSource, ...]
    calibration: tuple[LockedCalibration, ...] = ()
    shard_bytes: int
    device: str
    """`cpu` or `cuda`: what the run was told to use, or found."""
    threads: int
    pipeline: dict[str, Any]
    """The pipeline with every default. The recipe in it names its seed. `rule.json` has the rule,
    `recipe.yaml` the recipe as it was written; addresses of servers are left out."""
    beside: str | None
    """Directory that relative paths start from."""
    suite: dict[str, Any]
    """What the suite's digest is computed from: its definition, and the sha256 of its files."""
    started: str
    """When the run began, ISO 8601, UTC."""
    ended: str
    """When it had decided, and began to register."""
    by: str | None = None
    """USER@HOST of the run, where the pipeline asks for it."""
    documents: dict[str, str] = Field(default_factory=dict)
    """sha256 of each file with documents' text that the run keeps, by name."""

    @model_serializer(mode="wrap")
    def _documents_where_there_are_any(
        self, handler: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        """Runs that keep none have the lock that they had before any did."""
        values: dict[str, Any] = handler(self)
        if not self.documents:
            values.pop("documents", None)
        return values

    def plan_digest(self, recipe: Recipe, engine: str) -> str:
        """The digest of the plan that this lock gives a recipe, all of whose sources it has."""
        sources = {each.reference: _known_by(each.digest) for each in self.sources}
        measured = {each.reference: _known_by(each.digest) for each in self.calibration}
        return plan_key(recipe, sources, self.shard_bytes, measured, engine=engine)

    def departures(self, recipe: Recipe, manifest: CheckpointManifest) -> list[str]:
        """One sentence for each thing that the lock says otherwise than a manifest."""
        known = {each.reference: each.digest for each in self.sources}
        said = {item.reference: item.digest for item in manifest.inputs}
        found = [
            f"lock.json has another digest of {reference} than the manifest"
            for reference in recipe.references()
            if known.get(reference) != said.get(reference, "")
        ]
        if not found and self.plan_digest(recipe, manifest.engine) != manifest.plan_digest:
            found.append("shard size and calibration in lock.json give another plan")
        return found

    @property
    def suite_digest(self) -> str:
        """Of the suite that the lock defines."""
        return digest_of(self.suite)


def _known_by(digest: str) -> SourceCheckpoint:
    """A checkpoint as far as a plan's digest needs it."""
    return SourceCheckpoint(reference="", path="", digest=digest, files=())
