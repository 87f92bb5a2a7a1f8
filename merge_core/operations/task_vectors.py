"""Task vectors as files: extracted from a fine-tune, applied to a base, scaled or negated.

A task vector on disk is a directory of safetensors like a checkpoint, but its values are
differences and its manifest says of which checkpoints. Nothing mistakes it for a model: it has no
config.json.
"""

from __future__ import annotations

import json
from pathlib import Path

from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.checkpoints.sources import describe_source
from merge_core.errors import CheckpointError, CompatibilityError
from merge_core.files.bounded_json import read_json
from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from merge_core.operations.execute import execute
from merge_core.planning.plan import make_plan
from merge_core.progress import Progress
from merge_core.recipes.parts import ModelEntry
from merge_core.recipes.recipe import Recipe
from merge_core.records import CheckpointManifest, SourceCheckpoint
from merge_core.runtime.compute import Compute
from merge_core.verification.verify import raise_for_errors, verify

DESCRIPTION_NAME = "task_vector.json"


def extract_task_vector(
    base: SourceCheckpoint,
    expert: SourceCheckpoint,
    out: Path,
    *,
    home: Home,
    dtype: str = "float32",
    compute: Compute = Compute(),
    progress: Progress | None = None,
) -> CheckpointManifest:
    """Write expert minus base as a directory of deltas.

    Args:
        dtype: stored dtype. float32 holds the difference of any two 16-bit checkpoints to 24 bits;
            in bfloat16 a later `apply` gives back the expert only approximately.

    Raises:
        CompatibilityError: the expert is not a fine-tune of the base.
        OutputError: `out` exists or cannot be written.
    """
    raise_for_errors(verify(base, [expert], scan_weights=False))
    recipe = Recipe(
        merge_method="extract_task_vector",
        base_model=base.reference,
        models=(ModelEntry(model=expert.reference),),
        out_dtype=dtype,
    )
    description = {"base": base.digest, "expert": expert.digest, "dtype": dtype}
    sources = {base.reference: base, expert.reference: expert}
    return execute(
        make_plan(recipe, sources),
        sources,
        home=home,
        out=out,
        compute=compute,
        extra_files={DESCRIPTION_NAME: json.dumps(description, indent=2).encode() + b"\n"},
        progress=progress,
    )


def apply_task_vector(
    base: SourceCheckpoint,
    vector: Path,
    out: Path,
    *,
    home: Home,
    scale: float = 1.0,
    any_base: bool = False,
    compute: Compute = Compute(),
    progress: Progress | None = None,
) -> CheckpointManifest:
    """Write base plus scale times a task vector as a checkpoint; a negative scale removes a skill.

    Args:
        any_base: allow a base other than the one that the task vector was extracted from.

    Raises:
        CheckpointError: the directory holds no task vector.
        CompatibilityError: the task vector belongs to another base, or has other tensors.
    """
    description_path = vector / DESCRIPTION_NAME
    if not description_path.exists():
        raise CheckpointError(
            f"this is no task vector: it has no {DESCRIPTION_NAME}",
            where=str(vector),
            mend="make one with `mergeflow task-vector extract BASE EXPERT OUT`",
        )
    origin = read_json(description_path).get("base")
    if origin != base.digest and not any_base:
        raise CompatibilityError(
            f"the task vector was extracted from another base (digest {str(origin)[:12]}, this one"
            f" is {base.short})",
            where=str(vector),
            mend="use that base, or allow another with --any-base",
        )
    delta = describe_source(str(vector), vector, DigestMemo(home.digest_memo))
    recipe = Recipe(
        merge_method="apply_task_vector",
        base_model=base.reference,
        models=(ModelEntry(model=delta.reference),),
        parameters={"scale": scale},
        out_dtype=open_checkpoint(base.directory).dtype,
    )
    sources = {base.reference: base, delta.reference: delta}
    return execute(
        make_plan(recipe, sources),
        sources,
        home=home,
        out=out,
        compute=compute,
        progress=progress,
    )
