"""The evaluation step: `tasks.evaluation.evaluate.evaluate_checkpoint`, as a cached Prefect
task.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from merge_core.files.digests import DigestMemo
from merge_core.records import SourceCheckpoint
from tasks.caching.content_task import content_task
from tasks.evaluation.evaluate import evaluate_checkpoint
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
    )


@content_task("evaluate", version=1, fits=_fits, retries=0)
def evaluate_task(
    key: str,
    checkpoint: SourceCheckpoint,
    suite: Suite,
    scratch: Path,
    device: str = "auto",
    threads: int | None = None,
    logs: Path | None = None,
    digest_memo: Path | None = None,
) -> EvaluationReport:
    """`evaluate_checkpoint` as a cached step. Never retried: a retry would hide a real fault."""
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
    )
