"""A merge from recipe to published checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from merge_core.compatibility import raise_for_errors, verify
from merge_core.execution import execute, refuse_existing
from merge_core.home import Home
from merge_core.layout import DEFAULT_SHARD_BYTES
from merge_core.plan import make_plan
from merge_core.progress import Progress
from merge_core.recipe import Recipe
from merge_core.records import CheckpointManifest, SourceCheckpoint


def merge(
    recipe: Recipe,
    sources: Mapping[str, SourceCheckpoint],
    *,
    home: Home,
    out: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    block_elements: int | None = None,
    check: bool = True,
    progress: Progress | None = None,
) -> CheckpointManifest:
    """Merge checkpoints into a new checkpoint directory.

    Args:
        sources: a checkpoint for each of `recipe.references()`.
        out: the directory to make; by default `objects/<object id>` in the home's store, where the
            same merge done before is found again and checked rather than done again.
        check: verify architecture, tokenizer and measured ancestry first. The pipeline, which has
            its own verify step, turns this off.

    Raises:
        CompatibilityError: the checkpoints do not belong together.
        CheckpointError: an input is damaged, changed meanwhile, or holds NaN.
        OutputError: `out` exists, or there is not enough room, or it cannot be written.
    """
    if out is not None:
        refuse_existing(out)
    if check:
        base = sources[recipe.base_model] if recipe.base_model else None
        models = [sources[name] for name in recipe.references() if name != recipe.base_model]
        raise_for_errors(verify(base, models, scan_weights=False))
    plan = make_plan(recipe, sources, shard_bytes=shard_bytes)
    return execute(
        plan,
        sources,
        home=home,
        out=out,
        device=device,
        threads=threads,
        block_elements=block_elements,
        progress=progress,
    )
