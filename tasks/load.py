"""The load step: `tasks.loading.check_loading` of a merged checkpoint, as a cached Prefect task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tasks.caching import content_task
from tasks.loading import LayerOrigins, LoadingReport, check_loading


@content_task("load", version=1, retries=0)
def loading_task(
    key: str,
    checkpoint: Path,
    donor: Path,
    origins: LayerOrigins | None,
    sources: Mapping[str, Path],
    scratch: Path,
) -> LoadingReport:
    """What transformers says of a merged checkpoint; what is worse is in it, not raised."""
    return check_loading(checkpoint, donor, origins=origins, sources=sources, scratch=scratch)
