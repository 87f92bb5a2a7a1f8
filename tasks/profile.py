"""Profile: how the models' task vectors compare, before any of them is merged."""

from __future__ import annotations

from collections.abc import Sequence

from merge_core.operations.profile import TaskVectorProfile, profile_key, profile_task_vectors
from merge_core.records import SourceCheckpoint
from tasks.caching.content_task import content_task
from tasks.progress import prefect_progress


def _fits(
    profile: TaskVectorProfile,
    /,
    base: SourceCheckpoint,
    models: Sequence[SourceCheckpoint],
    densities: Sequence[float],
    **_others: object,
) -> bool:
    return (
        profile.base == base.reference
        and profile.models == tuple(model.reference for model in models)
        and profile.densities == tuple(densities)
    )


@content_task("profile", version=1, key=profile_key, fits=_fits, retries=0)
def profile_task(
    base: SourceCheckpoint,
    models: Sequence[SourceCheckpoint],
    densities: Sequence[float] = (0.1, 0.2, 0.5),
) -> TaskVectorProfile:
    """The profile of each model's difference from the base."""
    return profile_task_vectors(
        base, models, densities=densities, progress=prefect_progress("profile")
    )
