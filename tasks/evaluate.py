"""The evaluation step: `tasks.evaluation.evaluate.evaluate_checkpoint`, as a cached Prefect
task.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from merge_core.files.digests import DigestMemo, digest_of
from merge_core.records import SourceCheckpoint
from tasks.caching.content_task import content_task
from tasks.caching.record_storage import RecordStorage
from tasks.caching.stored_records import parse_record, stored_form
from tasks.evaluation.evaluate import Looks, evaluate_checkpoint, evaluation_key
from tasks.evaluation.evaluators import Evaluators, Isolation
from tasks.evaluation.suite import Suite, suite_digest
from tasks.processes.model import resolved_device_kind
from tasks.records import EvaluationReport


def _fits(
    report: EvaluationReport,
    /,
    checkpoint: SourceCheckpoint,
    suite: Suite,
    device: str,
    **_others: object,
) -> bool:
    return (
        report.checkpoint_digest == checkpoint.digest
        and report.suite_digest == suite_digest(suite)
        and report.lm_eval_version == version("lm-eval")
        and report.transformers_version == version("transformers")
        and resolved_device_kind(report.device) == resolved_device_kind(device)
        and report.looks is None
    )


def _fits_looks(report: EvaluationReport, /, looks: Looks, **arguments: Any) -> bool:
    taken = report.looks
    whole = report.model_copy(update={"looks": None})
    return (
        taken is not None
        and (taken.number, taken.by) == (looks.number, looks.by)
        and _fits(whole, **arguments)
    )


_VERSION = 1


def looks_key(checkpoint: SourceCheckpoint, suite: Suite, device: str, looks: Looks) -> str:
    """The cache key of an evaluation that may stop: of the whole one, and of what stops it."""
    return digest_of([evaluation_key(checkpoint, suite, device), looks.number, looks.by])


def _evaluate(
    checkpoint: SourceCheckpoint,
    suite: Suite,
    scratch: Path,
    device: str = "auto",
    threads: int | None = None,
    logs: Path | None = None,
    digest_memo: Path | None = None,
    evaluators: Evaluators | None = None,
    isolation: Isolation = "alone",
    batch_size: int | None = None,
    looks: Looks | None = None,
) -> EvaluationReport:
    """`evaluate_checkpoint` as a step. Never retried: a retry would hide a real fault."""
    from tasks.progress import prefect_progress

    return evaluate_checkpoint(
        checkpoint,
        suite,
        device=device,
        scratch=scratch,
        logs=logs,
        threads=threads,
        memo=DigestMemo(digest_memo),
        progress=prefect_progress(f"evaluate {checkpoint.reference}"),
        evaluators=evaluators,
        isolation=isolation,
        batch_size=batch_size,
        looks=looks,
    )


evaluate_task = content_task(
    "evaluate", version=_VERSION, key=evaluation_key, fits=_fits, retries=0
)(_evaluate)
"""A whole evaluation as a cached step."""

evaluate_in_looks_task = content_task(
    "evaluate-in-looks", version=1, key=looks_key, fits=_fits_looks, retries=0
)(_evaluate)
"""An evaluation that ends as soon as the rule knows enough, kept apart from whole ones: it is found
by what stopped it alone, and never gone on with."""


def stored_evaluation(
    cache: Path, checkpoint: SourceCheckpoint, suite: Suite, device: str
) -> EvaluationReport | None:
    """What a pipeline has evaluated before, told of this checkpoint; None if nothing is believed.

    Args:
        cache: the home's.
    """
    storage, path = _storage(cache, checkpoint, suite, device)
    try:
        content = storage.read_path(str(path))
    except FileNotFoundError:
        return None
    report = parse_record(content, path.name, EvaluationReport)
    return report.model_copy(update={"reference": checkpoint.reference})


def keep_evaluation(
    cache: Path, checkpoint: SourceCheckpoint, suite: Suite, device: str, report: EvaluationReport
) -> None:
    """Keep a report where pipelines, and `stored_evaluation`, find it.

    Raises:
        OSError: it cannot be written.
    """
    storage, path = _storage(cache, checkpoint, suite, device)
    storage.write_path(str(path), stored_form(report, str(path)))


def _storage(
    cache: Path, checkpoint: SourceCheckpoint, suite: Suite, device: str
) -> tuple[RecordStorage, Path]:
    path = cache / f"evaluate-v{_VERSION}-{evaluation_key(checkpoint, suite, device)}"
    fits = partial(_fits, checkpoint=checkpoint, suite=suite, device=device)
    return RecordStorage.of(path, EvaluationReport, fits), path
