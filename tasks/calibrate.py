"""The calibration step: `tasks.calibration.measure.calibrate` of one model, as a cached Prefect
task.
"""

from __future__ import annotations

from pathlib import Path

from merge_core.checkpoints.sources import has_its_own_digest
from merge_core.homes.home import Home
from merge_core.recipes.measurements import Measurement
from merge_core.records import SourceCheckpoint
from tasks.caching.content_task import content_task
from tasks.calibration.measure import calibrate, calibration_key
from tasks.progress import prefect_progress


def _fits(measured: SourceCheckpoint, /, key: str, **_others: object) -> bool:
    """The measurement lies in a directory of the key's name, wherever the home was then."""
    return measured.directory.name == key and has_its_own_digest(measured)


@content_task("calibrate", version=1, key=calibration_key, fits=_fits, retries=0)
def calibrate_task(
    source: SourceCheckpoint,
    measurement: Measurement,
    home: Path,
    beside: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    record: SourceCheckpoint | None = None,
) -> SourceCheckpoint:
    """Measure one model on the recipe's data. Never retried: a retry would hide a real fault.

    Args:
        record: the cached record, when the checkpoint on disk differs from it.
    """
    return calibrate(
        source,
        measurement,
        home=Home(home),
        beside=beside,
        device=device,
        threads=threads,
        record=record,
        progress=prefect_progress(f"measure {source.short}"),
    )
