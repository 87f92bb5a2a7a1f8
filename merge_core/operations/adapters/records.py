"""What a written adapter says of itself: what it is made of, and how much of that it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from merge_core.records import FileDigest, MergeInput, Record


class ModuleRow(Record):
    """One module of a written adapter."""

    module: str
    rank: int
    norm: float
    """Frobenius norm of what the module's weight should change by."""
    error: float
    """Of what was cut off to reach the rank, relative to that norm."""


class RestRow(Record):
    """One changed tensor that no low-rank pair holds."""

    tensor: str
    norm: float
    """Frobenius norm of its change."""
    relative: float
    """The same relative to the base's norm."""
    saved: bool
    """Whether it is saved in full (modules_to_save); if not, the adapter does not have it."""


class AdapterManifest(Record):
    """An adapter that was merged or extracted."""

    path: str
    digest: str
    """sha256 over the names and digests of its settings and weights."""
    kind: Literal["merge", "extract"]
    method: str | None = None
    space: Literal["concat", "core"] | None = None
    inputs: tuple[MergeInput, ...]
    parameters: int
    dtype: str
    modules: tuple[ModuleRow, ...]
    norm: float
    """Frobenius norm of everything that changed, held or not."""
    error: float
    """Norm of what the adapter does not have of it, relative to `norm`."""
    rest: tuple[RestRow, ...] = ()
    warnings: tuple[str, ...] = ()
    files: tuple[FileDigest, ...]


def totals(modules: Sequence[ModuleRow], rest: Sequence[RestRow] = ()) -> dict[str, Any]:
    """The rows of a manifest, the norm of all that changed, and how much of it is missing."""
    square = sum(row.norm**2 for row in modules) + sum(row.norm**2 for row in rest)
    lost = sum((row.norm * row.error) ** 2 for row in modules)
    lost += sum(row.norm**2 for row in rest if not row.saved)
    return {
        "modules": [row.model_dump() for row in modules],
        "rest": [row.model_dump() for row in rest],
        "norm": square**0.5,
        "error": (lost / square) ** 0.5 if square else 0.0,
    }
