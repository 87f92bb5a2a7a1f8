"""The small frozen values between steps: what caches store, MLflow records and the CLI prints.

Never tensors. Each is JSON through pydantic and rejects unknown fields, so a record written by an
incompatible version is recomputed rather than misread.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of every record: immutable, strict about its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileDigest(Record):
    """One file of a checkpoint: name relative to its directory, size in bytes, sha256 in hex."""

    name: str
    size: int
    sha256: str


class SourceAdapter(Record):
    """A LoRA adapter on this disk, found from a reference, identified by its content."""

    reference: str
    path: str
    """Absolute directory that holds the files."""
    revision: str | None = None
    """The Hub commit the files come from, if any."""
    digest: str
    """sha256 over the names and digests of its settings and weights."""
    files: tuple[FileDigest, ...]

    @property
    def directory(self) -> Path:
        return Path(self.path)


class SourceCheckpoint(Record):
    """A checkpoint on this disk, found from a reference, identified by its content."""

    reference: str
    """As the user wrote it: a directory, `org/name@revision`, `models:/name@alias`, or one of
    these with `+adapter`."""
    path: str
    """Absolute directory that holds the files; with an adapter, those of its base."""
    revision: str | None = None
    """The Hub commit the files come from, if any."""
    digest: str
    """sha256 over the names and digests of the files that decide what the model computes
    (weights, config, tokenizer, chat template): see `merge_core.files.digests.model_digest`. With
    an adapter it covers both."""
    files: tuple[FileDigest, ...]
    adapter: SourceAdapter | None = None
    """A LoRA adapter that is added to the weights as they are read."""

    @property
    def directory(self) -> Path:
        return Path(self.path)

    @property
    def short(self) -> str:
        """The first 12 hex digits of the digest, for people."""
        return self.digest[:12]


class MergeInput(Record):
    """One ingredient of a merge, as the manifest names it."""

    reference: str
    digest: str
    role: Literal["base", "model"]


class TakenOver(Record):
    """The files beside the weights that a merge copied from its donor, and those that it did not.

    Config, tokenizer and generation config are always written, and not listed.
    """

    copied: tuple[str, ...] = ()
    """Processors, modules of sentence encoders, and code where it was asked for."""
    left_behind: tuple[str, ...] = ()
    """Neither weights nor copied; directories end in a slash. Known right after the merge only: the
    manifest on disk does not name them, since they are no part of the model."""
    code_left_behind: tuple[str, ...] = ()
    """The files of `left_behind` that the model's config names as its code."""


class CheckpointManifest(Record):
    """What a merge wrote: where it is, what it is made of, and how to check it."""

    path: str
    digest: str
    """The model digest, computed as for a `SourceCheckpoint`."""
    object_id: str
    """sha256 of the checkpoint's SHA256SUMS file: identifies every byte, the recipe included."""
    files: tuple[FileDigest, ...]
    method: str
    recipe_digest: str
    plan_digest: str
    inputs: tuple[MergeInput, ...]
    parameters: int
    """Number of weights in the merged model."""
    dtype: str
    """Most common stored dtype, in torch's name (`bfloat16`)."""
    engine: str
    """Engine version; part of the plan digest."""
    allow_unrelated: bool = False
    """Whether the recipe said that its checkpoints need not have one origin."""
    taken_over: TakenOver = TakenOver()
    """What became of the donor's other files."""

    def as_source(self) -> SourceCheckpoint:
        """The merged checkpoint as an input of a later step."""
        return SourceCheckpoint(
            reference=self.path, path=self.path, digest=self.digest, files=self.files
        )
