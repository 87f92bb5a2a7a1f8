"""Weights of which a training saved what one of its processes held: nothing, or a flat piece."""

from __future__ import annotations

from merge_core.configs.sizes import Headers
from merge_core.findings import Finding, counted, some
from merge_core.tensors.kinds import GATHER, NOT_GATHERED, is_ungathered


def ungathered_findings(name: str, headers: Headers) -> list[Finding]:
    """An error for weights of which a training saved what one of its processes held."""
    lost = [tensor for tensor, header in headers.items() if is_ungathered(tensor, *header)]
    if not lost:
        return []
    return [
        Finding(
            severity="error",
            code="weights-ungathered",
            subject=name,
            message=f"{counted(len(lost), 'tensor')} saved {NOT_GATHERED}, empty or flat:"
            f" {some(lost)}",
            mend=GATHER,
            where=lost[0],
        )
    ]
