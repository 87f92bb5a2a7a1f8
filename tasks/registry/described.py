"""The checkpoint that a registered version stands for, as its description in MLflow says it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_core.errors import CheckpointError, StepError
from merge_core.files.bounded_json import parse_json
from merge_core.files.digests import DigestMemo, model_digest
from merge_core.records import SourceCheckpoint
from merge_core.store.objects import stored_place
from merge_core.store.vouching import departures
from tasks.registry.client import TAG, Registry
from tasks.registry.last_check import download_description
from tasks.registry.models import RECORD, find_logged_model

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion


def described_checkpoint(
    registry: Registry, version: ModelVersion
) -> tuple[LoggedModel, SourceCheckpoint]:
    """The LoggedModel of a version, and the checkpoint that is described there.

    Nothing is said of whether the files are what is described: `last_check` reads them.

    Raises:
        StepError: mergeflow did not register it, or the description is not the one of its digest.
    """
    where = f"models:/{version.name}/{version.version}"
    digest = version.tags.get(TAG + "digest")
    model = find_logged_model(registry, digest) if digest else None
    if digest is None or model is None:
        raise StepError(
            "mergeflow did not register this version, so nothing says which bytes it stands for",
            where=where,
            mend="choose a version that a pipeline registered: `mergeflow history` names them",
        )
    checkpoint = described_model(registry, model, digest)
    if checkpoint is None:
        raise StepError(
            f"MLflow's description of this version is not that of the checkpoint {digest[:12]}",
            where=f"{where}: {model.artifact_location}",
            mend="run the pipeline that registered it again: it writes the description anew",
        )
    return model, checkpoint


def described_model(registry: Registry, model: LoggedModel, digest: str) -> SourceCheckpoint | None:
    """The checkpoint that MLflow describes; None if that is not the one of this digest."""
    with tempfile.TemporaryDirectory(prefix="mergeflow-") as scratch:
        checkpoint = _parsed(download_description(registry, model, Path(scratch) / "held"))
    if checkpoint is None or not _is_of_digest(checkpoint, digest):
        return None
    return checkpoint


def where_recorded(
    registry: Registry, checkpoint: SourceCheckpoint, memo: DigestMemo
) -> SourceCheckpoint:
    """A checkpoint where MLflow saw it first, while it is there as it was; else as it was found.

    The same bytes found elsewhere are no reason to let an old record lead elsewhere.
    """
    model = find_logged_model(registry, checkpoint.digest)
    if model is None or model.tags.get(TAG + "path") in (None, checkpoint.path):
        return checkpoint
    before = described_model(registry, model, checkpoint.digest)
    if before is None or before.path != model.tags[TAG + "path"]:
        return checkpoint
    try:
        return checkpoint if departures(before, memo) else before
    except CheckpointError:
        return checkpoint


def _parsed(held: Path) -> SourceCheckpoint | None:
    try:
        record: dict[str, Any] = parse_json((held / RECORD).read_bytes())
        return SourceCheckpoint.model_validate(
            {key: record[key] for key in SourceCheckpoint.model_fields if key in record}
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_of_digest(checkpoint: SourceCheckpoint, digest: str) -> bool:
    """The listed files give the digest. An adapter that was written out has that of its parts: the
    store vouches for its files."""
    if checkpoint.digest != digest:
        return False
    in_store = stored_place(checkpoint.directory) is not None
    return model_digest(checkpoint.files) == digest or in_store
