"""Measure models on calibration data: a process loads each one, the result is kept by its content.

What was measured is a directory of safetensors under the model's own tensor names, found again when
the model, the data and the settings are the same.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from merge_core.checkpoints.sources import describe_source
from merge_core.errors import CheckpointError, MergeflowError, OutputError, RecipeError, StepError
from merge_core.files.bounded_json import parse_json
from merge_core.files.digests import DigestMemo, digest_of
from merge_core.files.durable import sync
from merge_core.files.own_files import read_own
from merge_core.files.present import files_present
from merge_core.files.private import PRIVATE_DIRECTORY, make_private_directory
from merge_core.files.read_only import make_read_only, make_removable
from merge_core.homes.home import Home
from merge_core.progress import Progress, ProgressEvent
from merge_core.recipes.measurements import Measurement, measurements
from merge_core.recipes.recipe import Recipe
from merge_core.records import SourceCheckpoint
from merge_core.store.objects import Store
from tasks.calibration.samples import data_digest, data_file, draw_samples
from tasks.processes.child import ChildEnd, run_child
from tasks.processes.model import OFFLINE, last_lines, model_environment, resolved_device_kind

VERSION = 1
"""Raised when the same measurement would give other numbers; part of every key."""

_RECORD = "measured.json"
_MAX_RECORD = 1 << 20
_HOURS = 12.0
_log = logging.getLogger("mergeflow")


def calibrate_all(
    recipe: Recipe,
    sources: Mapping[str, SourceCheckpoint],
    measure: Callable[[SourceCheckpoint, Measurement], SourceCheckpoint],
) -> dict[str, SourceCheckpoint]:
    """What a recipe's methods need to know of its models, by reference; empty for most recipes.

    Args:
        measure: `calibrate`, or a step that does it.
    """
    return {
        reference: measure(sources[reference], measurement)
        for reference, measurement in measurements(recipe).items()
    }


def check_data(recipe: Recipe, beside: Path | None = None) -> None:
    """Find a mistake in a recipe's data before anything is downloaded or computed.

    Raises:
        RecipeError: the data is missing, damaged or too little.
    """
    for measurement in dict.fromkeys(measurements(recipe).values()):
        draw_samples(measurement.calibration, data_file(measurement.calibration, beside))


def calibrate(
    source: SourceCheckpoint,
    measurement: Measurement,
    *,
    home: Home,
    beside: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    hours: float = _HOURS,
    record: SourceCheckpoint | None = None,
    progress: Progress | None = None,
) -> SourceCheckpoint:
    """Measure one model, or find what was measured before.

    Args:
        beside: directory of the recipe, which the path of the data starts from.
        record: what a step says was found before, when that did not hold: nothing else is believed
            in its place.
        device: auto, cpu, cuda or cuda:N. The model is computed in float32 on it.
        threads: of the CPU; by default all.
        hours: the time after which the process is killed.

    Raises:
        RecipeError: the data is missing, damaged or too little.
        CheckpointError: this is no causal language model with a tokenizer that transformers loads.
        StepError: the process failed, died or took too long; none is left behind.
    """
    key = calibration_key(source, measurement, beside, device)
    memo = DigestMemo(home.digest_memo)
    place = home.statistics / key
    name = f"{measurement.statistic} of {source.reference}"
    found = _find(name, place, memo)
    if found is not None:
        if record is None or found.files == record.files:
            return found
        _log.warning(
            "warning: the %s in the store has changed since it was measured: it was moved to %s",
            name,
            Store(home, memo).set_aside(place),
        )
    samples = draw_samples(measurement.calibration, data_file(measurement.calibration, beside))
    working = _working(home, measurement, source)
    job = {
        "checkpoint": source.path,
        "adapter": source.adapter and source.adapter.path,
        "statistic": measurement.statistic,
        "samples": [[sample.line, sample.prompt, sample.text] for sample in samples],
        "max_length": measurement.calibration.max_length,
        "batch_size": measurement.calibration.batch_size,
        "device": device,
        "out": str(working / "measured"),
    }
    result = _measure(source, measurement, job, working, threads, hours, progress)
    _publish(working / "measured", place, {"key": key, **result}, memo)
    shutil.rmtree(working, ignore_errors=True)
    found = _find(name, place, memo)
    if found is None:
        raise OutputError("what was just measured is not there", where=str(place))
    return found


def calibration_key(
    source: SourceCheckpoint, measurement: Measurement, beside: Path | None, device: str = "auto"
) -> str:
    """The key of one measurement: everything that can change a number in it.

    Sums differ in their last digits with the kind of device and the versions of the libraries, and
    a little with the number of threads, which is not part of the key: what was measured first is
    found again, and the merge's own digest covers its bytes.

    Raises:
        RecipeError: there is no file of data.
    """
    settings = measurement.calibration.model_dump(exclude={"data"})
    return digest_of(
        {
            "checkpoint": source.digest,
            "statistic": measurement.statistic,
            "data": data_digest(data_file(measurement.calibration, beside)),
            "settings": settings,
            "version": VERSION,
            "device": resolved_device_kind(device),
            "torch": version("torch"),
            "transformers": version("transformers"),
        }
    )


def measured_before(digest: str, reference: str, home: Home) -> SourceCheckpoint | None:
    """What was measured of a checkpoint, by its digest; every byte of it is read."""
    memo = DigestMemo(None)
    places = sorted(home.statistics.iterdir()) if home.statistics.is_dir() else []
    for place in places:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if parse_json(read_own(place / _RECORD, _MAX_RECORD)).get("digest") != digest:
                continue
            found = _find(reference, place, memo)
            if found is not None:
                return found
    return None


def _find(name: str, place: Path, memo: DigestMemo) -> SourceCheckpoint | None:
    """The measurement at `place`, if it is complete and no other file is there."""
    try:
        record = parse_json(read_own(place / _RECORD, _MAX_RECORD))
        found = describe_source(name, place, memo)
        present = files_present(place, alone=True)
    except (OSError, ValueError, CheckpointError):
        return None
    if not isinstance(record, dict):
        return None
    listed = [_RECORD, *(file.name for file in found.files)]
    is_whole = record.get("digest") == found.digest and record.get("key") == place.name
    return found if is_whole and not (present.strange or present.besides(listed)) else None


def _working(home: Home, measurement: Measurement, source: SourceCheckpoint) -> Path:
    prefix = f"{measurement.statistic}-{source.short}-"
    try:
        make_private_directory(home.scratch)
        working = Path(tempfile.mkdtemp(prefix=prefix, dir=home.scratch))
        (working / "measured").mkdir()
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror}", where=str(home.scratch)) from None
    return working


def _measure(
    source: SourceCheckpoint,
    measurement: Measurement,
    job: Mapping[str, Any],
    working: Path,
    threads: int | None,
    hours: float,
    progress: Progress | None,
) -> dict[str, Any]:
    """Run the process. Its log stays behind when it broke down."""
    messages: dict[str, Any] = {}
    stage = f"measure {measurement.statistic} of {source.reference}"

    def listen(message: dict[str, Any]) -> None:
        messages.update(message)
        if progress and "done" in message:
            progress(ProgressEvent(stage, message["done"], message["total"], "samples"))

    log = working / "calibration.log"
    try:
        end = run_child(
            "tasks.calibration.process",
            job,
            log=log,
            timeout=hours * 3600,
            environment=model_environment(threads) | OFFLINE,
            on_message=listen,
        )
    except BaseException:
        shutil.rmtree(working, ignore_errors=True)
        raise
    if "result" in messages:
        result: dict[str, Any] = messages["result"]
        return result
    problem = messages.get("problem")
    shutil.rmtree(working / "measured", ignore_errors=True)
    if problem is None or problem["bug"]:
        raise _breakdown(stage, end, messages, log, hours)
    shutil.rmtree(working, ignore_errors=True)
    raise _mistake(source, stage, problem)


def _publish(made: Path, place: Path, record: Mapping[str, Any], memo: DigestMemo) -> None:
    """Move a measurement to its place in one rename; a second process keeps the first one's."""
    try:
        described = describe_source("", made, memo)
        (made / _RECORD).write_text(json.dumps({**record, "digest": described.digest}, indent=2))
        for path in made.iterdir():
            path.chmod(0o400)
            sync(path)
        made.chmod(PRIVATE_DIRECTORY)
        make_private_directory(place.parent)
        if place.exists() and not _find("", place, memo):
            make_removable(place)
            place.rename(made.parent / "replaced")
        if not place.exists():
            made.rename(place)
            make_read_only(place)
            sync(place.parent)
    except OSError as error:
        if not _find("", place, memo):
            raise OutputError(f"cannot be written: {error.strerror}", where=str(place)) from None


def _mistake(source: SourceCheckpoint, stage: str, problem: Mapping[str, Any]) -> MergeflowError:
    """Something the process understood: a person has to change a file or a value."""
    kinds = {"data": RecipeError, "model": CheckpointError}
    kind = kinds.get(problem["place"] or "", StepError)
    where = {"data": "calibration", "model": source.reference}.get(problem["place"] or "", stage)
    return kind(problem["what"], where=where, mend=problem["mend"])


def _breakdown(
    stage: str, end: ChildEnd, messages: Mapping[str, Any], log: Path, hours: float
) -> StepError:
    """The error for a process that failed, died or was killed, with the place of its log."""
    problem = messages.get("problem")
    less_memory = "lower calibration.batch_size or calibration.max_length, or use device cpu"
    shown = [f"    | {line}" for line in last_lines(log)]
    mend = "read the log"
    if end.timed_out:
        done = f"{messages['done']} of {messages['total']}" if "done" in messages else "no"
        what = f"was killed: not finished in {hours:g} hours ({done} samples done)"
        mend = "lower calibration.samples or calibration.max_length, or use a faster device"
    elif problem:
        what, shown = f"failed: {problem['what'][:600]}", []
        mend = "read the log; it ends in a traceback"
        if "memory" in what.lower():
            mend = less_memory
    elif end.code == -signal.SIGKILL:
        what = "was killed from outside, most likely because memory ran out"
        mend = less_memory
    else:
        what = f"ended with exit status {end.code} and no result"
    return StepError(
        f"the calibration process {what}",
        where=stage,
        mend=mend,
        details=[*shown, f"  whole log: {log}"],
    )
