"""A merge from recipe to published checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from merge_core.distributed.coordinator import Workers
from merge_core.distributed.job import Executor, MergeOrder
from merge_core.errors import RecipeError
from merge_core.homes.home import Home
from merge_core.operations.examine import examine
from merge_core.operations.execute import execute, refuse_existing
from merge_core.planning.layout import DEFAULT_SHARD_BYTES
from merge_core.planning.plan import make_plan
from merge_core.progress import Progress
from merge_core.recipes.measurements import measurements
from merge_core.recipes.recipe import Recipe
from merge_core.records import CheckpointManifest, SourceCheckpoint
from merge_core.runtime.compute import Compute
from merge_core.runtime.timings import Timings
from merge_core.verification.verify import raise_for_errors


def merge(
    recipe: Recipe,
    sources: Mapping[str, SourceCheckpoint],
    *,
    home: Home,
    out: Path | None = None,
    compute: Compute = Compute(),
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    check: bool = True,
    calibration: Mapping[str, SourceCheckpoint] | None = None,
    copy_code: bool = False,
    executor: Executor | None = None,
    record: CheckpointManifest | None = None,
    progress: Progress | None = None,
    timings: Timings | None = None,
    **former: Any,
) -> CheckpointManifest:
    """Merge checkpoints into a new checkpoint directory.

    Args:
        sources: a checkpoint for each of `recipe.references()`.
        out: the directory to make; by default `objects/<object id>` in the home's store, where the
            same merge done before is found again and checked rather than done again.
        check: verify architecture, tokenizer and measured ancestry first. The pipeline, which has
            its own verify step, turns this off.
        copy_code: take over the donor's own code (.py files that its config names): whoever loads
            the result with trust_remote_code runs it.
        executor: has groups of tensors computed by other processes, to the same bytes; `compute` is
            then for each of them. By default this process computes.
        record: without `out`, what was said before to be the result: it is found again if the
            store agrees (`merge_core.store.objects`).
        calibration: what `tasks.calibration.measure` measured of each model, for methods that use
            data.
        former: `device`, `threads` and `block_elements`, which are fields of `compute` now.

    Raises:
        RecipeError: the method uses data, and a model was not measured.
        CompatibilityError: the checkpoints do not belong together.
        CheckpointError: an input is damaged, changed meanwhile, or holds NaN.
        OutputError: `out` exists, or there is not enough room, or it cannot be written.
        StepError: workers kept dying; what they finished is kept for the next attempt.
    """
    if former:
        warnings.warn(
            "device, threads and block_elements are fields of compute=Compute(...) now; as keywords"
            " they work in this version only",
            DeprecationWarning,
            stacklevel=2,
        )
        compute = replace(compute, **former)
    if out is not None:
        refuse_existing(out)
    if check:
        raise_for_errors(examine(recipe, sources).report)
    for reference in measurements(recipe):
        if reference not in (calibration or {}):
            raise RecipeError(
                f"{recipe.merge_method} needs measurements of '{reference}', and there are none",
                where="calibration",
                mend="take them with tasks.calibration.measure.calibrate, as `mergeflow merge`"
                " does",
            )
    plan = make_plan(
        recipe, sources, shard_bytes=shard_bytes, calibration=calibration, copy_code=copy_code
    )
    workers = (
        executor
        if executor is None
        else Workers(executor, MergeOrder.of(recipe, sources, calibration, shard_bytes, copy_code))
    )
    return execute(
        plan,
        sources,
        home=home,
        out=out,
        compute=compute,
        workers=workers,
        record=record,
        progress=progress,
        timings=timings,
    )
