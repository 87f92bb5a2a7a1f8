"""Checkpoints as MLflow LoggedModels, by reference: one for each content digest, found again by it.

MLflow stores a description of a few kilobytes (an `MLmodel`, the file digests, the loader, the
tokenizer); the weights stay where they are. Both `mlflow.pyfunc` and `mlflow.transformers` load it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_core.files.names import TOKENIZER_FILES, is_model_file
from merge_core.records import SourceCheckpoint
from merge_core.store.objects import listed_files, stored_place
from merge_core.text.plain import plain
from tasks.registry.client import TAG, Registry, mergeflow_experiments
from tasks.registry.loader import files_beside

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

RECORD = "checkpoint.json"
KIND = "checkpoint"
"""What MLflow calls the type of these models."""
_LOADER = Path(__file__).with_name("loader.py")
_PYFUNC = "python_function"
_TRANSFORMERS = "transformers"
_LOADING_PACKAGES = ("mlflow", "torch", "transformers", "safetensors")


def ensure_logged_model(
    registry: Registry,
    experiment_id: str,
    checkpoint: SourceCheckpoint,
    *,
    name: str | None = None,
    run_id: str | None = None,
    registered: bool = False,
) -> str:
    """The id of the LoggedModel of a checkpoint: found by digest in any experiment, else created.

    What an earlier, interrupted call left unfinished is completed. The loader of an earlier version
    is replaced.

    Args:
        checkpoint: with the place that the model leads to from now on; see
            `tasks.registry.described.where_recorded`.
        name: the name of a new model, by default the last part of its reference.
        run_id: the run that made the checkpoint, if one did.
        registered: also make it loadable by `mlflow.transformers` (this stores its tokenizer).
    """
    model = find_logged_model(registry, checkpoint.digest, experiment_id)
    if model is None:
        model = _create(registry, experiment_id, checkpoint, name, run_id)
    flavors = _wanted_flavors(checkpoint, registered)
    have = set(model.tags.get(TAG + "flavors", "").split(",")) - {""}
    moved = model.tags[TAG + "path"] != checkpoint.path
    outdated = registered and model.tags.get(TAG + "loader") != _loader()
    if moved or outdated or not flavors <= have:
        describe(registry, model, checkpoint, flavors | have)
    if str(model.status) != "READY":
        registry.client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def find_logged_model(
    registry: Registry, digest: str, experiment_id: str | None = None
) -> LoggedModel | None:
    """The oldest LoggedModel with this digest, in any of mergeflow's experiments."""
    experiments = mergeflow_experiments(registry)
    if experiment_id is not None and experiment_id not in experiments:
        experiments.append(experiment_id)
    if not experiments:
        return None
    found = registry.client.search_logged_models(
        experiments,
        filter_string=f"tags.`{TAG}digest` = '{digest}'",
        max_results=1,
        order_by=[{"field_name": "creation_timestamp", "ascending": True}],
    )
    return found[0] if found else None


def _create(
    registry: Registry,
    experiment_id: str,
    checkpoint: SourceCheckpoint,
    name: str | None,
    run_id: str | None,
) -> LoggedModel:
    tags = {
        TAG + "digest": checkpoint.digest,
        TAG + "path": checkpoint.path,
        TAG + "reference": plain(checkpoint.reference),
        "mlflow.model.isExternal": "true",
    }
    if checkpoint.revision:
        tags[TAG + "revision"] = checkpoint.revision
    model = registry.client.create_logged_model(
        experiment_id,
        name=_name(name or checkpoint.reference, checkpoint),
        source_run_id=run_id,
        tags=tags,
        params=facts_of_checkpoint(checkpoint),
        model_type=KIND,
    )
    first = find_logged_model(registry, checkpoint.digest, experiment_id)
    if first is not None and first.model_id != model.model_id:
        registry.client.delete_logged_model(model.model_id)  # another writer was faster
        return first
    return model


def _wanted_flavors(checkpoint: SourceCheckpoint, registered: bool) -> set[str]:
    wanted = {_PYFUNC}
    if registered and _tokenizer_files(checkpoint):
        wanted.add(_TRANSFORMERS)
    return wanted


def describe(
    registry: Registry,
    model: LoggedModel,
    checkpoint: SourceCheckpoint,
    flavors: Collection[str] = (),
) -> None:
    """Put the description of a checkpoint where MLflow keeps the model's artifacts.

    Args:
        flavors: those that it has to have; by default those that a registered version has.
    """
    flavors = flavors or _wanted_flavors(checkpoint, registered=True)
    with tempfile.TemporaryDirectory(prefix="mergeflow-") as scratch:
        directory = Path(scratch)
        write_description(directory, model, checkpoint, _TRANSFORMERS in flavors)
        registry.client.log_model_artifacts(model.model_id, str(directory))
    registry.client.set_logged_model_tags(
        model.model_id,
        {
            TAG + "path": checkpoint.path,
            TAG + "flavors": ",".join(sorted(flavors)),
            TAG + "loader": _loader(),
        },
    )


def write_description(
    directory: Path,
    model: LoggedModel,
    checkpoint: SourceCheckpoint,
    with_tokenizer: bool | None = None,
) -> None:
    """Write MLflow's model directory: everything but the weights.

    Args:
        with_tokenizer: also for `mlflow.transformers`; by default as for a registered version.
    """
    if with_tokenizer is None:
        with_tokenizer = _TRANSFORMERS in _wanted_flavors(checkpoint, registered=True)
    from mlflow.models import Model

    record = checkpoint.model_dump() | _beside(checkpoint)
    (directory / RECORD).write_text(json.dumps(record, indent=1))
    loader = _loader()
    (directory / "code").mkdir()
    (directory / "code" / f"{loader}.py").write_bytes(_LOADER.read_bytes())
    _write_environment(directory)
    described = Model(
        artifact_path=model.artifact_location,
        run_id=model.source_run_id,
        model_uuid=model.model_id,
        model_id=model.model_id,
        signature=_signature(),
        metadata={"digest": checkpoint.digest, "weights": "by reference"},
    )
    described.add_flavor(
        _PYFUNC,
        loader_module=loader,
        data=RECORD,
        code="code",
        config={"verify": "sizes", "device": None},
        env={"virtualenv": "python_env.yaml"},
        python_version=".".join(map(str, sys.version_info[:3])),
    )
    if with_tokenizer:
        place = directory / "components" / "tokenizer"
        place.mkdir(parents=True)
        for name in (*_tokenizer_files(checkpoint), "config.json"):
            shutil.copyfile(checkpoint.directory / name, place / name)
        # The auto classes, never the checkpoint's own names: MLflow would run code that ships
        # with a checkpoint for a class that transformers does not have.
        described.add_flavor(
            _TRANSFORMERS,
            task="text-generation",
            instance_type="TextGenerationPipeline",
            pipeline_model_type="AutoModelForCausalLM",
            source_model_name=checkpoint.path,
            local_base_model_path=checkpoint.path,
            framework="pt",
            components=["tokenizer"],
            tokenizer_type="AutoTokenizer",
        )
    described.save(str(directory / "MLmodel"))


def _beside(checkpoint: SourceCheckpoint) -> dict[str, Any]:
    """Names that may lie beside the files of a checkpoint when it is loaded."""
    listed = {file.name for file in checkpoint.files}
    stored = stored_place(checkpoint.directory)
    if stored is not None:
        return {"stored": True, "beside": sorted(listed_files(stored) - listed)}
    present = files_beside(checkpoint.directory, listed, stored=False)
    return {"stored": False, "beside": [name for name in present if not is_model_file(name)]}


def _loader() -> str:
    """The module that loads a registered checkpoint; its name contains its digest."""
    return f"mergeflow_loader_{hashlib.sha256(_LOADER.read_bytes()).hexdigest()[:8]}"


def _write_environment(directory: Path) -> None:
    versions = {name: _installed(name) for name in _LOADING_PACKAGES}
    pins = [f"{name}=={found}" for name, found in versions.items() if found]
    (directory / "requirements.txt").write_text("\n".join(pins) + "\n")
    python = ".".join(map(str, sys.version_info[:3]))
    (directory / "python_env.yaml").write_text(
        f"python: {python}\nbuild_dependencies: [pip]\ndependencies: [-r requirements.txt]\n"
    )


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string)]),
        outputs=Schema([ColSpec(DataType.string)]),
        params=ParamSchema(
            [
                ParamSpec("max_new_tokens", DataType.long, 64),
                ParamSpec("temperature", DataType.double, 0.0),
            ]
        ),
    )


def facts_of_checkpoint(checkpoint: SourceCheckpoint) -> dict[str, str]:
    """The facts of a checkpoint that the UI shows, from its config alone."""
    described = {
        "reference": checkpoint.reference,
        "bytes": str(sum(file.size for file in checkpoint.files)),
    }
    config = checkpoint.directory / "config.json"
    if config.is_file():
        values = json.loads(config.read_text())
        for key in ("model_type", "dtype", "hidden_size", "num_hidden_layers", "vocab_size"):
            if key in values:
                described[key] = str(values[key])
        described["architecture"] = ", ".join(values.get("architectures") or ["unknown"])
    return {key: value[:500] for key, value in described.items()}


def _tokenizer_files(checkpoint: SourceCheckpoint) -> list[str]:
    present = {file.name for file in checkpoint.files}
    return [name for name in TOKENIZER_FILES if name in present]


def _name(title: str, checkpoint: SourceCheckpoint) -> str:
    last = title.rstrip("/").rpartition("/")[2]
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", last).strip("-")[:40]
    return f"{slug or 'checkpoint'}-{checkpoint.short}"


def _installed(package: str) -> str | None:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return None
