"""What an MLflow registry holds, read back through MLflow's own client."""

from __future__ import annotations

import socket
import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.records import Registration


@dataclass(frozen=True)
class Registered:
    """A promoted merge: what was handed over, what came back, and all that MLflow then held."""

    registry: str
    arguments: dict[str, Any]
    result: Registration
    contents: dict[str, Any]


def client(registry: str) -> Any:
    """MLflow's own client."""
    import mlflow

    return mlflow.MlflowClient(registry, registry_uri=registry)


def everything(registry: str) -> dict[str, Any]:
    """All that MLflow holds, with its random ids replaced by what they stand for."""
    api = client(registry)
    experiments = [item.experiment_id for item in api.search_experiments()]
    models = api.search_logged_models(experiments)
    digests = {model.model_id: model.tags["mergeflow.digest"] for model in models}
    runs = {run.info.run_id: run for run in api.search_runs(experiments)}
    names = {run_id: run.info.run_name for run_id, run in runs.items()}
    hidden = ("mlflow.parentRunId", "mergeflow.run_id", "mlflow.modelVersions")

    def tags(found: dict[str, str]) -> dict[str, str]:
        return {key: value for key, value in found.items() if key not in hidden}

    return {
        "experiments": sorted(item.name for item in api.search_experiments()),
        "models": sorted(
            (
                digests[model.model_id],
                str(model.status),
                names.get(model.source_run_id),
                sorted(tags(model.tags).items()),
                sorted(
                    item.path
                    for item in api.list_logged_model_artifacts(model.model_id)
                    if item.path != "registered_model_meta"  # MLflow leaves it when it loads
                ),
            )
            for model in models
        ),
        "runs": sorted(
            (
                run.info.run_name,
                run.info.status,
                names.get(run.data.tags.get("mlflow.parentRunId")),
                str(sorted(tags(run.data.tags).items())),
                str(sorted(run.data.params.items())),
                str(sorted(run.data.metrics.items())),
                [len(api.get_metric_history(run_id, key)) for key in sorted(run.data.metrics)],
                Counter(digests[item.model_id] for item in run.inputs.model_inputs),
                Counter(digests[item.model_id] for item in run.outputs.model_outputs),
                sorted(item.path for item in api.list_artifacts(run_id)),
            )
            for run_id, run in runs.items()
        ),
        "versions": [
            (
                model.name,
                str(version.version),
                version.description,
                sorted(tags(version.tags).items()),
                version.aliases,
            )
            for model in api.search_registered_models()
            for version in sorted(
                api.search_model_versions(f"name = '{model.name}'"), key=lambda v: int(v.version)
            )
        ],
    }


def champion_holder(registry: str) -> str | None:
    """The version with the alias, read from the database itself."""
    with sqlite3.connect(registry.removeprefix("sqlite:///")) as database:
        row = database.execute("SELECT version FROM registered_model_aliases").fetchone()
    return str(row[0]) if row else None


def artifacts_of(registry: str) -> Path:
    """Where a local database keeps artifacts."""
    return Path(registry.removeprefix("sqlite:///")).parent / "artifacts"


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
