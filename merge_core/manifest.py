"""What a finished checkpoint says of itself, and whether the disk still agrees.

`mergeflow_manifest.json` names recipe, plan, inputs and the digests of the model files;
`SHA256SUMS` covers every other file, the manifest included, and is checkable with `sha256sum -c`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from merge_core.digests import DigestMemo, model_digest, sha256_file
from merge_core.errors import CheckpointError
from merge_core.plan import Plan
from merge_core.records import CheckpointManifest, FileDigest, TakenOver

MANIFEST_NAME = "mergeflow_manifest.json"
SUMS_NAME = "SHA256SUMS"


def seal(
    plan: Plan,
    directory: Path,
    target: Path,
    taken_over: TakenOver,
    weights: Mapping[str, str],
) -> CheckpointManifest:
    """Hash a complete checkpoint directory and write its manifest and SHA256SUMS into it.

    Args:
        target: where the directory will be published, with `{object_id}` for its own digest.
        weights: sha256 of the weight files, which were hashed as they were written.
    """
    files = [
        FileDigest(
            name=name,
            size=(directory / name).stat().st_size,
            sha256=weights.get(name) or sha256_file(directory / name),
        )
        for name in sorted(files_below(directory) - {MANIFEST_NAME, SUMS_NAME})
    ]
    body = {
        "digest": model_digest(files),
        "method": plan.recipe.merge_method,
        "recipe_digest": plan.recipe.digest,
        "plan_digest": plan.digest,
        "inputs": [entry.model_dump() for entry in plan.inputs],
        "parameters": plan.parameters,
        "dtype": plan.dtype,
        "engine": plan.engine,
        **({"allow_unrelated": True} if plan.recipe.allows_unrelated else {}),
        # What lies beside a model without being part of it must not change the result's bytes.
        "taken_over": taken_over.model_dump(mode="json", exclude={"left_behind"}),
        "files": [file.model_dump() for file in files],
    }
    manifest = directory / MANIFEST_NAME
    manifest.write_text(json.dumps(body, indent=2) + "\n", "utf-8")
    sums = {file.name: file.sha256 for file in files}
    sums[MANIFEST_NAME] = hashlib.sha256(manifest.read_bytes()).hexdigest()
    text = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(sums.items()))
    (directory / SUMS_NAME).write_text(text, "utf-8")
    object_id = hashlib.sha256(text.encode()).hexdigest()
    written = CheckpointManifest.model_validate(
        body | {"path": str(target).format(object_id=object_id), "object_id": object_id}
    )
    return written.model_copy(update={"taken_over": taken_over})


def verify_manifest(manifest: CheckpointManifest, memo: DigestMemo) -> list[str]:
    """What is wrong with a merged checkpoint on disk: nothing, when every byte is as it was.

    Returns:
        One sentence for each missing, extra or changed file; empty when all is well.
    """
    directory = Path(manifest.path)
    if not directory.is_dir():
        return [f"{directory} is gone"]
    try:
        sums = (directory / SUMS_NAME).read_bytes()
    except OSError:
        return [f"{SUMS_NAME} is missing"]
    if hashlib.sha256(sums).hexdigest() != manifest.object_id:
        return [f"{SUMS_NAME} has changed"]
    lines = [line.split("  ", 1) for line in sums.decode().splitlines()]
    expected = {name: sha256 for sha256, name in lines}
    present = files_below(directory) - {SUMS_NAME}
    problems = [f"{name} is missing" for name in sorted(expected.keys() - present)]
    for name in sorted(expected.keys() & present):
        if memo.sha256(directory / name) != expected[name]:
            problems.append(f"{name} has changed")
    return problems


def files_below(directory: Path) -> set[str]:
    """Names of all files in a checkpoint directory, deeper ones as `1_Pooling/config.json`."""
    found = (path for path in directory.rglob("*") if not path.is_dir())
    return {path.relative_to(directory).as_posix() for path in found}


def read_manifest(directory: Path) -> CheckpointManifest:
    """The manifest of a checkpoint that mergeflow made.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    try:
        body = json.loads((directory / MANIFEST_NAME).read_bytes())
        sums = (directory / SUMS_NAME).read_bytes()
        extra = {"path": str(directory), "object_id": hashlib.sha256(sums).hexdigest()}
        return CheckpointManifest.model_validate(body | extra)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"no usable manifest of a mergeflow checkpoint: {error}", where=str(directory)
        ) from None
