"""Registries with thousands of merges, written through MLflow's own client: deep and wide ones."""

from __future__ import annotations

import json
import math
import time
from typing import Any

from merge_core.files.digests import digest_of
from tasks.registry.client import TAG, open_registry, process_tracking_uri


def digest_at(index: int, of: str = "chain") -> str:
    """The digest of one checkpoint of a fixture."""
    return digest_of([of, index])


def deep_chain(tracking_uri: str, depth: int, name: str = "deep") -> None:
    """Register a version at the end of a chain: each merge is made of the one before and a base."""
    with open_registry(tracking_uri, writing=True) as registry, process_tracking_uri(registry):
        api = registry.client
        experiment = api.create_experiment(name, tags={TAG + "experiment": "true"})
        base = digest_at(0, "base")
        for index in range(1, depth + 1):
            before = digest_at(index - 1)
            _merge(api, experiment, digest_at(index), [("base", base), ("model", before)], index)
        api.create_registered_model(name)
        _version(api, experiment, name, digest_at(depth))


def wide_registry(
    tracking_uri: str, versions: int, models: int = 1, name: str = "wide", seconds: float = math.inf
) -> int:
    """Register many versions, each a merge of one base with an expert of its own.

    Args:
        models: how many registered models share them, `NAME-0` and so on; one is called NAME.
            MLflow reads all versions of a model to number the next one.
        seconds: after so long no further one is made.

    Returns:
        How many were made.
    """
    with open_registry(tracking_uri, writing=True) as registry, process_tracking_uri(registry):
        api = registry.client
        experiment = api.create_experiment(name, tags={TAG + "experiment": "true"})
        base, until = digest_at(0, "base"), time.monotonic() + seconds
        names = [name] if models == 1 else [f"{name}-{number}" for number in range(models)]
        for each in names:
            api.create_registered_model(each)
        for index in range(1, versions + 1):
            if time.monotonic() > until:
                return index - 1
            digest = digest_at(index, "wide")
            inputs = [("base", base), ("model", digest_at(index, "expert"))]
            run = _merge(api, experiment, digest, inputs, index)
            _version(api, experiment, names[index % models], digest, run)
        return versions


def _merge(
    api: Any, experiment: str, digest: str, inputs: list[tuple[str, str]], index: int
) -> str:
    tags = {
        TAG + "kind": "merge",
        TAG + "digest": digest,
        TAG + "method": "linear",
        TAG + "recipe_digest": digest_of(["recipe", index]),
        TAG + "plan_digest": digest_of(["plan", index]),
        TAG + "object_id": digest_of(["object", index]),
        TAG + "verdict": "promoted",
    }
    for place, (role, given) in enumerate(inputs):
        said = {"index": place, "reference": f"model-{given[:6]}", "digest": given, "role": role}
        tags[f"{TAG}input.{given[:12]}"] = json.dumps(said)
    run = api.create_run(experiment, run_name=f"linear-{digest[:8]}", tags=tags)
    return str(run.info.run_id)


def _version(api: Any, experiment: str, name: str, digest: str, run_id: str | None = None) -> None:
    model = api.create_logged_model(
        experiment, name=f"model-{digest[:12]}", tags={TAG + "digest": digest}
    )
    tags = {TAG + "digest": digest, **({TAG + "run_id": run_id} if run_id else {})}
    api.create_model_version(
        name, source=f"models:/{model.model_id}", tags=tags, model_id=model.model_id
    )
