"""What came of making a merge again."""

from __future__ import annotations

from merge_core.records import Record


class FoundSource(Record):
    """A checkpoint of the merge, found by its digest."""

    reference: str
    digest: str
    paths: tuple[str, ...]
    """Its directory, and that of its adapter."""
    moved: bool
    """It is not where it was."""


class MissingSource(Record):
    """A checkpoint, or data, that is nowhere with this digest."""

    reference: str
    digest: str
    looked: tuple[str, ...]
    """One sentence for each place."""
    mend: str


class FileDifference(Record):
    """A file that is not the same; None where there is none of its name."""

    name: str
    recorded: str | None
    """sha256."""
    rebuilt: str | None


class Reproduction(Record):
    """A merge beside what its record gives now."""

    model_uri: str
    digest: str
    object_id: str
    """As recorded."""
    rebuilt: str | None = None
    """The object id that it has now; None where a source is missing."""
    files: int
    differences: tuple[FileDifference, ...] = ()
    sources: tuple[FoundSource, ...] = ()
    missing: tuple[MissingSource, ...] = ()
    problems: tuple[str, ...] = ()
    """What of the record is not as it was written, and was not used."""
    assumed: tuple[str, ...] = ()
    """What the record does not say."""
    otherwise: tuple[str, ...] = ()
    """What is another one now: versions, the machine, threads."""
    kept: str | None = None
    """Where the rebuilt checkpoint is."""

    @property
    def same(self) -> bool:
        """Whether every byte is the same."""
        return self.rebuilt == self.object_id

    @property
    def holds(self) -> bool:
        """Whether it is the same, and its record as it was written."""
        return self.same and not self.problems
