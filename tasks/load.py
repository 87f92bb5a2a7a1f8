"""The load step: `tasks.loading.check.check_loading` of a merged checkpoint, as a cached Prefect
task.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from tasks.caching.content_task import content_task
from tasks.loading.check import LayerOrigins, LoadingReport, check_loading


def _fits(report: LoadingReport, /, checkpoint: Path, **_others: object) -> bool:
    same_place = Path(report.directory) == checkpoint
    return same_place and report.transformers_version == version("transformers")


@content_task("load", version=1, fits=_fits, retries=0)
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
