"""Real merges that are registered with the lock that a run gives them, without evaluations."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from flows.settings.pipeline import Pipeline
from flows.steps.locking import lock_of
from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from merge_core.operations.merge import merge
from merge_core.output.model_files import RECIPE_NAME
from merge_core.runtime.compute import Compute
from tasks.calibration.measure import calibrate, calibrate_all
from tasks.evaluation.suite import load_suite, suite_digest
from tasks.registry.client import default_tracking_uri
from tasks.registry.lock import LOCK, LockedSource
from tasks.registry.register import register_merge
from tasks.sources.locate import fetch, locate
from tests.support.registrations import decision, report


def registered_merge(
    home: Home,
    suite: Path,
    recipe: Any,
    *,
    beside: Path | None = None,
    model: str = "model",
    promote: bool = True,
    execution: dict[str, Any] | None = None,
) -> str:
    """Resolve, merge into the home's store, lock and register as a run does; the version.

    Args:
        suite: directory of the suite that the pipeline names; nothing is evaluated on it.
        execution: the pipeline's.
    """
    pipeline = Pipeline.model_validate(
        {
            "name": "nightly",
            "recipe": recipe,
            "evaluate": {"suite": str(suite)},
            "register": {"model": model},
            "execution": execution or {},
        }
    )
    chosen, started = pipeline.recipe, datetime.now(UTC)
    uri = default_tracking_uri(home)
    locations = [locate(reference, home, beside, uri) for reference in chosen.references()]
    sources = {each.reference: fetch(each, DigestMemo(None)) for each in locations}
    locked = [LockedSource.of(sources[each.reference], each.version) for each in locations]
    threads = pipeline.execution.threads
    measure = partial(calibrate, home=home, beside=beside, device="cpu", threads=threads)
    measured = calibrate_all(chosen, sources, measure)
    loaded = load_suite(suite)
    lock = lock_of(pipeline, locked, measured, loaded, beside, started)
    manifest = merge(
        chosen,
        sources,
        home=home,
        compute=Compute(threads=threads),
        shard_bytes=lock.shard_bytes,
        calibration=measured,
        check=False,
    )
    base, *others = sources.values()
    reports = [report(base, 2.5, 0.4), report(manifest.as_source(), 2.4, 0.5)]
    on_suite = {"suite_digest": suite_digest(loaded)}
    registration = register_merge(
        tracking_uri=uri,
        experiment="merges",
        model_name=model,
        recipe_yaml=(Path(manifest.path) / RECIPE_NAME).read_text("utf-8"),
        recipe_digest=chosen.digest,
        manifest=manifest,
        base=base,
        models=others,
        reports=[each.model_copy(update=on_suite) for each in reports],
        decision=decision(base, manifest.digest, promote=promote),
        pipeline_name=pipeline.name,
        artifacts={LOCK: lock.model_copy(update={"ended": lock.started}).model_dump_json()},
        home=home,
    )
    return f"models:/{model}/{registration.candidate.version}"
