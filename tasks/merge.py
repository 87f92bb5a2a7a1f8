"""The merge step: `merge_core.operations.merge` into the content-addressed store, as a cached
Prefect task.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from merge_core.distributed.job import Executor
from merge_core.files.digests import model_digest
from merge_core.homes.home import Home
from merge_core.operations.merge import merge
from merge_core.planning.layout import DEFAULT_SHARD_BYTES
from merge_core.recipes.recipe import Recipe
from merge_core.records import CheckpointManifest, SourceCheckpoint
from merge_core.runtime.compute import Compute
from merge_core.store.objects import Wanted
from tasks.caching.content_task import content_task
from tasks.progress import prefect_progress


def _fits(manifest: CheckpointManifest, /, wanted: Wanted, **_others: object) -> bool:
    """Whether a record is of this recipe, method and inputs, and of the object that it names.

    Only the last part of its path is compared: the home may have moved since.
    """
    return (
        not wanted.differences(manifest)
        and manifest.digest == model_digest(manifest.files)
        and Path(manifest.path).name == manifest.object_id
    )


@content_task("merge", version=1, key=lambda wanted: wanted.plan_digest, fits=_fits, retries=0)
def merge_task(
    wanted: Wanted,
    recipe: Recipe,
    sources: Mapping[str, SourceCheckpoint],
    home: Path,
    compute: Compute = Compute(),
    calibration: Mapping[str, SourceCheckpoint] | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    executor: Executor | None = None,
    record: CheckpointManifest | None = None,
) -> CheckpointManifest:
    """Merge and publish. Compatibility was verified by the step before; NaN is refused here too.

    Args:
        wanted: what the result has to be, of the arguments below.
        record: the cached record, when the object in the store differs from it.
    """
    return merge(
        recipe,
        sources,
        home=Home(home),
        compute=compute,
        shard_bytes=shard_bytes,
        executor=executor,
        check=False,
        calibration=calibration,
        record=record,
        progress=prefect_progress("merge"),
    )
