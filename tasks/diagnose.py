"""Diagnose: what the weights say of a merge before there is one, as a step and for a command."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from merge_core.operations.diagnosis.weights import (
    WeightDiagnosis,
    diagnose_weights,
    diagnosis_key,
)
from merge_core.progress import Progress
from merge_core.records import SourceCheckpoint
from tasks.caching.content_task import content_task
from tasks.caching.record_storage import RecordStorage
from tasks.caching.stored_records import parse_record, stored_form
from tasks.progress import prefect_progress

_VERSION = 1


def _fits(
    found: WeightDiagnosis,
    /,
    base: SourceCheckpoint,
    models: Sequence[SourceCheckpoint],
    **_others: object,
) -> bool:
    references = tuple(model.reference for model in models)
    return (found.profile.base, found.profile.models) == (base.reference, references)


@content_task("diagnose", version=_VERSION, key=diagnosis_key, fits=_fits, retries=0)
def diagnose_task(base: SourceCheckpoint, models: Sequence[SourceCheckpoint]) -> WeightDiagnosis:
    """The diagnosis of each model's difference from the base."""
    return diagnose_weights(base, models, progress=prefect_progress("diagnose"))


def diagnosed(
    cache: Path,
    base: SourceCheckpoint,
    models: Sequence[SourceCheckpoint],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> WeightDiagnosis:
    """The same outside of a flow: found where a step or a command kept it.

    Args:
        cache: the home's.

    Raises:
        MergeflowError: as `diagnose_weights`.
    """
    path = cache / f"diagnose-v{_VERSION}-{diagnosis_key(base, models)}"
    fits = partial(_fits, base=base, models=models)
    storage = RecordStorage.of(path, WeightDiagnosis, fits)
    try:
        return parse_record(storage.read_path(str(path)), path.name, WeightDiagnosis)
    except FileNotFoundError:
        pass
    found = diagnose_weights(base, models, threads=threads, progress=progress)
    storage.write_path(str(path), stored_form(found, str(path)))
    return found
