"""Everything about a recipe's checkpoints that the weights alone say, as one record."""

from __future__ import annotations

from collections.abc import Sequence

from merge_core.files.digests import digest_of
from merge_core.operations.common_tensors import common_tensors, nbytes
from merge_core.operations.diagnosis.clashes import Clashes, measure_clashes
from merge_core.operations.diagnosis.ranks import (
    MatrixRanks,
    PartRanks,
    bytes_to_read,
    measure_ranks,
    parts_of,
)
from merge_core.operations.diagnosis.sample import Sample, draw_sample
from merge_core.operations.profile import TaskVectorProfile, profile_task_vectors
from merge_core.progress import Progress, Throttle
from merge_core.records import Record, SourceCheckpoint
from merge_core.runtime.threads import default_threads

VERSION = 1
"""Raised when the same checkpoints would give another diagnosis; part of `diagnosis_key`."""
DENSITIES = (0.1, 0.2, 0.5)


class WeightDiagnosis(Record):
    """What `diagnose_weights` found."""

    profile: TaskVectorProfile
    clashes: Clashes
    """Of the whole model."""
    layer_clashes: tuple[Clashes, ...]
    matrices: tuple[MatrixRanks, ...]
    sample: Sample

    @property
    def ranks(self) -> tuple[PartRanks, ...]:
        """Effective ranks by layer, and outside of the layers."""
        return parts_of(self.matrices)


def diagnose_weights(
    base: SourceCheckpoint,
    models: Sequence[SourceCheckpoint],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> WeightDiagnosis:
    """Measure the models' task vectors: the profile, what conflicts by magnitude, ranks, a sample.

    Args:
        threads: more are faster and change nothing in the result.

    Raises:
        CompatibilityError: no tensor is common to base and models.
        NonFiniteError: a weight is NaN or infinite.
        CheckpointError: an input is damaged.
    """
    profile = profile_task_vectors(
        base, models, densities=DENSITIES, threads=threads, progress=progress
    )
    rows, _ = common_tensors(base, models)
    workers = threads or default_threads()
    everything = sum(map(nbytes, rows))
    overall, layers = measure_clashes(rows, workers, Throttle(progress, "conflicts", everything))
    matrices = measure_ranks(rows, workers, Throttle(progress, "ranks", bytes_to_read(rows)))
    return WeightDiagnosis(
        profile=profile,
        clashes=overall,
        layer_clashes=layers,
        matrices=matrices,
        sample=draw_sample(rows),
    )


def diagnosis_key(base: SourceCheckpoint, models: Sequence[SourceCheckpoint]) -> str:
    """Digest of everything a diagnosis depends on: contents, and their names and order."""
    return digest_of(
        {
            "version": VERSION,
            "base": [base.reference, base.digest],
            "models": [[model.reference, model.digest] for model in models],
        }
    )
