"""The last check before an alias moves: its new target has the bytes that were evaluated.

The way from an alias to weights has three parts: the version leads to a LoggedModel, that holds a
description, and the description names a directory and its files. Each is looked at.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from merge_core.errors import CheckpointError, StepError
from merge_core.files.bounded_json import parse_json
from merge_core.files.digests import DigestMemo
from merge_core.findings import printable
from merge_core.progress import Progress
from merge_core.records import SourceCheckpoint
from merge_core.store.vouching import confirm
from tasks.registry.client import TAG, Registry
from tasks.registry.loader import CheckpointUnavailableError, check_files
from tasks.registry.models import RECORD, describe, write_description

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

_MLMODEL = "MLmodel"
_LOADER = re.compile(r"code/mergeflow_loader_([0-9a-f]{8})\.py")
_NEVER_LOADED = ("registered_model_meta",)
_log = logging.getLogger("mergeflow")


def check_bytes_served(
    registry: Registry,
    version: ModelVersion,
    model_id: str,
    checkpoint: SourceCheckpoint,
    memo: DigestMemo,
    progress: Progress | None = None,
) -> Callable[[], None]:
    """Check that a version leads to the bytes of a checkpoint. Reads them all.

    A description that says otherwise is written anew, with a word.

    Args:
        model_id: of the checkpoint's LoggedModel.
        memo: gets the digests that were read; it is not asked for any.

    Returns:
        A last look, which takes no time: that none of the files has changed since.

    Raises:
        CheckpointError: the checkpoint has changed since it was identified.
        StepError: the version leads elsewhere, or MLflow holds code that is not mergeflow's.
    """
    model = registry.client.get_logged_model(model_id)
    _check_way(registry, version, model, checkpoint)
    with tempfile.TemporaryDirectory(prefix="mergeflow-") as scratch:
        held = download_description(registry, model, Path(scratch) / "held")
        confirmed = confirm(checkpoint, memo, progress)
        _check_presence(held, checkpoint)
        _keep_description(registry, version, model, checkpoint, held, Path(scratch))
    return confirmed.look_again


def check_files_served(
    registry: Registry, version: ModelVersion, model_id: str, checkpoint: SourceCheckpoint
) -> None:
    """The same of a version that has the alias already, without reading weights: only that every
    file is there, in its size.

    Raises:
        CheckpointError: files of the checkpoint are missing, or others came.
        StepError: the version leads elsewhere, or MLflow holds code that is not mergeflow's.
    """
    model = registry.client.get_logged_model(model_id)
    _check_way(registry, version, model, checkpoint)
    with tempfile.TemporaryDirectory(prefix="mergeflow-") as scratch:
        held = download_description(registry, model, Path(scratch) / "held")
        _check_presence(held, checkpoint)
        _keep_description(registry, version, model, checkpoint, held, Path(scratch))


def _keep_description(
    registry: Registry,
    version: ModelVersion,
    model: LoggedModel,
    checkpoint: SourceCheckpoint,
    held: Path,
    scratch: Path,
) -> None:
    """Let MLflow hold what mergeflow writes, which is written anew where it says otherwise."""
    expected = scratch / "expected"
    expected.mkdir()
    write_description(expected, model, checkpoint)
    differing = differences(held, expected)
    if differing:
        if {RECORD, _MLMODEL} & differing:
            _log.info("the description of version %s is brought up to date", version.version)
        describe(registry, model, checkpoint)
        held = download_description(registry, model, scratch / "again")
        differing = differences(held, expected)
    strange = strangers(held, expected)
    if differing or strange:
        raise StepError(
            f"MLflow holds {min(differing | strange)} of this model, which mergeflow did not"
            " put there",
            where=f"{version.name}, version {version.version}: {model.artifact_location}",
            mend="find out who writes there, remove it, and run the same command again",
        )


def _check_way(
    registry: Registry, version: ModelVersion, model: LoggedModel, checkpoint: SourceCheckpoint
) -> None:
    """The version leads to the LoggedModel of this checkpoint, and loads what that holds."""
    client = registry.client
    loaded_from = client.get_model_version_download_uri(version.name, str(version.version))
    digests = {version.tags.get(TAG + "digest"), model.tags.get(TAG + "digest")}
    places = {f"models:/{model.model_id}", str(model.artifact_location)}
    if digests != {checkpoint.digest} or {version.source, loaded_from} - places:
        raise StepError(
            f"version {version.version} of {version.name} no longer leads to the checkpoint"
            f" {checkpoint.short}, as which it was registered",
            where=registry.address,
            mend="delete that version in MLflow, and run the same command again: it makes another",
        )


def _check_presence(held: Path, checkpoint: SourceCheckpoint) -> None:
    """Nothing is missing of the checkpoint, and nothing came since it was registered there.

    Where MLflow says that it is does not count: that place may be somebody else's.
    """
    record = _record(held, checkpoint) or checkpoint.model_dump()
    try:
        check_files(record, "sizes")
    except CheckpointUnavailableError as error:
        what, _, _ = str(error).partition("\n")
        raise CheckpointError(
            printable(what, 400),
            mend="remove what came into the directory, or put back what was there",
        ) from None


def _record(held: Path, checkpoint: SourceCheckpoint) -> dict[str, Any] | None:
    """What MLflow's description says of this checkpoint in this place, if it says anything."""
    try:
        record = parse_json((held / RECORD).read_bytes())
        known = SourceCheckpoint.model_validate(
            {key: record[key] for key in SourceCheckpoint.model_fields}
        )
        beside = {"stored": record["stored"] is True, "beside": [*map(str, record["beside"])]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    here = (known.path, known.files) == (checkpoint.path, checkpoint.files)
    return known.model_dump() | beside if here else None


def download_description(registry: Registry, model: LoggedModel, to: Path) -> Path:
    """Bring what MLflow holds of a model into a new directory; where in it the MLmodel is."""
    import mlflow

    to.mkdir()
    if not registry.client.list_logged_model_artifacts(model.model_id):
        return to  # somebody has removed it, and MLflow would not say so by any code
    mlflow.artifacts.download_artifacts(
        artifact_uri=str(model.artifact_location),
        dst_path=str(to),
        tracking_uri=registry.tracking_uri,
    )
    if (to / _MLMODEL).exists():
        return to
    return next((path.parent for path in to.glob(f"*/{_MLMODEL}")), to)


def differences(held: Path, expected: Path) -> set[str]:
    """Names of the files of a description that are missing, or not as they have to be."""
    return {name for name in _names(expected) if not _are_alike(held / name, expected / name)}


def _are_alike(held: Path, expected: Path) -> bool:
    if not held.is_file():
        return False
    if expected.name != _MLMODEL:
        return held.read_bytes() == expected.read_bytes()
    try:
        return _what_loads(held) == _what_loads(expected)
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError):
        return False


def _what_loads(description: Path) -> dict[str, Any]:
    """Of an MLmodel: all but when and by which versions it was written."""
    content = yaml.safe_load(description.read_text("utf-8"))
    when = ("utc_time_created", "mlflow_version", "artifact_path", "model_size_bytes")
    return {key: value for key, value in content.items() if key not in when}


def strangers(held: Path, expected: Path) -> set[str]:
    """Names of files that were added to a description, and would be loaded with it.

    Loaders of earlier versions may stay: the name of each is the digest of its content.
    """
    extra = _names(held) - _names(expected)
    return {
        name
        for name in extra
        if name not in _NEVER_LOADED
        and "__pycache__/" not in name
        and not (
            (loader := _LOADER.fullmatch(name))
            and sha256((held / name).read_bytes()).hexdigest().startswith(loader[1])
        )
    }


def _names(directory: Path) -> set[str]:
    return {
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir()
    }
