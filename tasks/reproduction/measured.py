"""What calibration measured for a recorded merge: found by digest, or measured again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from merge_core.errors import MergeflowError
from merge_core.homes.home import Home
from merge_core.progress import Progress
from merge_core.recipes.measurements import Measurement, measurements
from merge_core.records import SourceCheckpoint
from merge_core.runtime.compute import Compute
from tasks.calibration.measure import calibrate, measured_before
from tasks.calibration.samples import data_digest, data_file
from tasks.registry.lock import Lock, LockedCalibration
from tasks.reproduction.recorded import RecordedMerge
from tasks.reproduction.report import MissingSource


class Measured(NamedTuple):
    """Measurements by reference, the data that is missing, and what has to be told."""

    by_reference: dict[str, SourceCheckpoint]
    missing: tuple[MissingSource, ...]
    told: tuple[str, ...]


def measured_again(
    home: Home,
    recorded: RecordedMerge,
    sources: Mapping[str, SourceCheckpoint],
    compute: Compute,
    progress: Progress | None,
) -> Measured:
    """The measurements that a recipe's methods need; none for most recipes."""
    found: dict[str, SourceCheckpoint] = {}
    missing: dict[str, MissingSource] = {}
    told: list[str] = []
    lock = recorded.lock
    locked = {each.reference: each for each in lock.calibration} if lock else {}
    for reference, measurement in measurements(recorded.recipe).items():
        known = locked.get(reference)
        before = measured_before(known.digest, reference, home) if known else None
        if before is not None:
            found[reference] = before
            continue
        data = _data(measurement, known, lock)
        if data is None:
            missing[measurement.calibration.data] = _nowhere(measurement, known)
            continue
        again = calibrate(
            sources[reference],
            _reading(measurement, data),
            home=home,
            device=compute.device,
            # sums depend on the number of threads, in their last digits
            threads=lock.threads if lock else compute.threads,
            progress=progress,
        )
        found[reference] = again
        if known is None:
            told.append(f"what {measurement.statistic} of {reference} was is not recorded")
        elif again.digest != known.digest:
            told.append(
                f"{measurement.statistic} of {reference} was measured again, and came out with"
                " other numbers"
            )
    return Measured(found, tuple(missing.values()), tuple(told))


def _data(
    measurement: Measurement, known: LockedCalibration | None, lock: Lock | None
) -> Path | None:
    """The file of data: where it was, or what the recipe's path means now, if it is the same."""
    candidates = [Path(known.data)] if known else []
    try:
        beside = Path(lock.beside) if lock and lock.beside else None
        candidates.append(data_file(measurement.calibration, beside))
    except MergeflowError:
        pass
    for path in candidates:
        if path.is_file() and (known is None or data_digest(path) == known.sha256):
            return path.absolute()
    return None


def _reading(measurement: Measurement, data: Path) -> Measurement:
    calibration = measurement.calibration.model_copy(update={"data": str(data)})
    return Measurement(measurement.statistic, calibration)


def _nowhere(measurement: Measurement, known: LockedCalibration | None) -> MissingSource:
    said = known.data if known else measurement.calibration.data
    return MissingSource(
        reference=measurement.calibration.data,
        digest=known.sha256 if known else "",
        looked=(f"{said}: gone, or other data",),
        mend="put the calibration data back where it was",
    )
