"""Diagnoses of small checkpoints that differ as a test says, and what their curves hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from merge_core.operations.diagnosis.weights import WeightDiagnosis, diagnose_weights
from merge_core.records import SourceCheckpoint
from merge_core.verification.verify import CheckpointRow, CompatibilityReport
from tasks.diagnosis.advice import advise
from tasks.diagnosis.curves import Barrier, Curve, Curves, CurveTask, Point
from tasks.diagnosis.diagnosis import Diagnosis
from tests.support.checkpoints import write_checkpoint

NAMES = ("model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight")


def checkpoints(
    directory: Path, steps: Mapping[str, torch.Tensor | float], seed: int = 0
) -> tuple[SourceCheckpoint, list[SourceCheckpoint]]:
    """A base of two matrices of 32 by 32, and models that are steps away from it, by their names.

    A step is what is added to both matrices, or the size of noise.
    """
    generator = torch.Generator().manual_seed(seed)
    base = {name: 0.05 * torch.randn(32, 32, generator=generator) for name in NAMES}
    models = []
    for name, step in steps.items():
        changed = {
            each: tensor
            + (step if torch.is_tensor(step) else step * torch.randn(32, 32, generator=generator))
            for each, tensor in base.items()
        }
        models.append(write_checkpoint(directory / name, changed))
    return write_checkpoint(directory / "base", base), models


def weights_of(directory: Path, steps: Mapping[str, torch.Tensor | float]) -> WeightDiagnosis:
    base, models = checkpoints(directory, steps)
    return diagnose_weights(base, models, threads=1)


def report_of(base: str | None, models: Sequence[str]) -> CompatibilityReport:
    """Everything is well."""
    rows = [
        CheckpointRow(
            reference=name, role="model", digest=name * 2, verdict="fine-tune of the base"
        )
        for name in models
    ]
    return CompatibilityReport(base=base, rows=tuple(rows), findings=(), scanned=False)


def scale_curve(
    model: int, changes: Mapping[float, float | None], below: Sequence[float] = ()
) -> Curve:
    """Changes by scale, and the scales that certainly are below the best."""
    points = [
        Point(at=at)
        if change is None
        else Point(
            at=at, change=change, low=change - 0.01, high=change + 0.01, below_best=at in below
        )
        for at, change in changes.items()
    ]
    return Curve(models=(model,), points=tuple(points))


def line_curve(height: float, low: float, middle: float) -> Curve:
    """Between models 0 and 1, with a barrier in the middle."""
    points = [
        Point(at=at, change=change, low=change - 0.01, high=change + 0.01)
        for at, change in ((0.0, 0.0), (0.5, middle), (1.0, 0.0))
    ]
    barrier = Barrier(at=0.5, height=height, low=low, high=2 * height - low)
    return Curve(models=(0, 1), points=tuple(points), barrier=barrier)


def curves_with(*curves: Curve) -> Curves:
    task = CurveTask(name="code", metric="bits_per_byte", higher_is_better=False)
    return Curves(suite="s", documents=100, tasks=(task,), curves=curves)


def diagnosis(
    base: str | None,
    models: Sequence[str],
    weights: WeightDiagnosis | None,
    curves: Curves | None = None,
    name: str = "recipe",
) -> Diagnosis:
    report = report_of(base, models)
    return Diagnosis(
        name=name,
        recipe_digest="a" * 64,
        method="task_arithmetic",
        base=base,
        models=tuple(models),
        compatibility=report,
        weights=weights,
        no_weights="" if weights else "there is no base",
        curves=curves,
        no_curves="" if curves else "nothing was evaluated",
        advice=advise(models, report, weights, curves),
    )
