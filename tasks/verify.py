"""Verify: do the checkpoints belong in one merge? The flow shows the report and acts on errors."""

from __future__ import annotations

from collections.abc import Sequence

from merge_core.records import SourceCheckpoint
from merge_core.verification.tolerance import STRICT, Tolerance
from merge_core.verification.verify import CompatibilityReport, verify, verify_key
from tasks.caching.content_task import content_task
from tasks.progress import prefect_progress


def _fits(
    report: CompatibilityReport,
    /,
    base: SourceCheckpoint | None,
    models: Sequence[SourceCheckpoint],
    scan_weights: bool,
    **_others: object,
) -> bool:
    sources = [*([base] if base else []), *models]
    return (
        report.base == (base.reference if base else None)
        and report.scanned == scan_weights
        and {(row.reference, row.digest) for row in report.rows}
        == {(source.reference, source.digest) for source in sources}
    )


@content_task("verify", version=1, key=verify_key, fits=_fits, retries=0)
def verify_task(
    base: SourceCheckpoint | None,
    models: Sequence[SourceCheckpoint],
    scan_weights: bool = True,
    tolerance: Tolerance = STRICT,
) -> CompatibilityReport:
    """The compatibility report of base and models; its errors are in it, not raised."""
    return verify(
        base,
        models,
        scan_weights=scan_weights,
        tolerance=tolerance,
        progress=prefect_progress("verify"),
    )
