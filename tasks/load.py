"""The load step: `tasks.loading.check.check_merged` of a merged checkpoint, as a cached Prefect
task.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from merge_core.recipes.recipe import Recipe
from merge_core.records import CheckpointManifest, SourceCheckpoint
from tasks.caching.content_task import content_task
from tasks.loading.check import LoadingReport, check_merged, loading_key


def _fits(report: LoadingReport, /, manifest: CheckpointManifest, **_others: object) -> bool:
    same_place = Path(report.directory) == Path(manifest.path)
    return same_place and report.transformers_version == version("transformers")


@content_task("load", version=1, key=loading_key, fits=_fits, retries=0)
def loading_task(
    manifest: CheckpointManifest,
    recipe: Recipe,
    sources: Mapping[str, SourceCheckpoint],
    scratch: Path,
) -> LoadingReport:
    """What transformers says of a merged checkpoint; what is worse is in it, not raised."""
    return check_merged(Path(manifest.path), recipe, sources, scratch)
