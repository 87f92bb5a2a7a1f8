"""What a finished checkpoint says of itself, and whether the disk still agrees.

`mergeflow_manifest.json` names recipe, plan, inputs and the digests of the model files;
`SHA256SUMS` covers every other file, the manifest included, and is checkable with `sha256sum -c`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from merge_core.errors import CheckpointError, refused
from merge_core.files.bounded_json import parse_json
from merge_core.files.digests import DigestMemo, model_digest, sha256_file
from merge_core.files.hashing import hash_files
from merge_core.files.present import files_present
from merge_core.files.sha256sums import MAX_SUMS_BYTES, SUMS_NAME, read_sums, sums_text
from merge_core.files.untrusted import read_plain
from merge_core.findings import printable
from merge_core.planning.plan import Plan
from merge_core.progress import Progress
from merge_core.records import CheckpointManifest, FileDigest, TakenOver

MANIFEST_NAME = "mergeflow_manifest.json"
_MAX_MANIFEST_BYTES = 100 << 20
_NOT_IN_THE_FILE = {"path", "object_id"}
"""Of a manifest: what depends on where it is, and what comes after it."""


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
        for name in sorted(files_present(directory, alone=False).files - {MANIFEST_NAME, SUMS_NAME})
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
    text = sums_text(sums)
    (directory / SUMS_NAME).write_text(text, "utf-8")
    object_id = hashlib.sha256(text.encode()).hexdigest()
    written = CheckpointManifest.model_validate(
        body | {"path": str(target).format(object_id=object_id), "object_id": object_id}
    )
    return written.model_copy(update={"taken_over": taken_over})


def verify_manifest(
    manifest: CheckpointManifest,
    memo: DigestMemo,
    *,
    alone: bool = False,
    afresh: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """What is wrong with a merged checkpoint on disk: nothing, when every byte is as it was.

    The files that are there are exactly those that SHA256SUMS lists; what it lists is what the
    manifest on disk lists; and that manifest says the same as the one given.

    Args:
        alone: links are wrong too, as in a store (`merge_core.files.present`).
        afresh: read every byte, whatever the memo says.

    Returns:
        One sentence for each thing that is wrong; empty when all is well.

    Raises:
        UnreadableError: something is there, and cannot be read now.
    """
    directory = Path(manifest.path)
    if not directory.is_dir():
        return [f"{directory} is gone"]
    try:
        content = read_plain(directory / SUMS_NAME, MAX_SUMS_BYTES)
    except CheckpointError as error:
        return [f"{SUMS_NAME} is missing or no file: {printable(refused(error))}"]
    if hashlib.sha256(content).hexdigest() != manifest.object_id:
        return [f"{SUMS_NAME} has changed"]
    problems = verify_sums(directory, content, memo, alone=alone, afresh=afresh, progress=progress)
    if problems:
        return problems
    try:
        on_disk = read_manifest(directory)
    except CheckpointError as error:
        return [f"{MANIFEST_NAME} cannot be used: {printable(refused(error))}"]
    return _disagreements(manifest, on_disk, read_sums(content))


def verify_sums(
    directory: Path,
    content: bytes,
    memo: DigestMemo,
    *,
    alone: bool,
    afresh: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """What is wrong with a directory by its SHA256SUMS, whose content is given: files that are
    missing, have changed, or are not listed. Arguments and errors as for `verify_manifest`."""
    try:
        listed = read_sums(content)
    except ValueError as error:
        return [f"{SUMS_NAME} cannot be used: {printable(error)}"]
    present = files_present(directory, alone=alone)
    here = sorted(listed.keys() & present.files)
    problems = [*present.strange, *present.besides({*listed, SUMS_NAME})]
    problems += [
        f"{printable(name)} is missing"
        for name in sorted(listed.keys() - present.files)
        if not any(said.startswith(f"{printable(name)} ") for said in present.strange)
    ]
    stage = f"check {directory.name[:12]}"
    found = hash_files(
        directory, [directory / name for name in here], memo, stage, progress, afresh=afresh
    )
    changed = (file.name for file in found if listed[file.name] != file.sha256)
    return problems + [f"{printable(name)} has changed" for name in changed]


def read_manifest(directory: Path) -> CheckpointManifest:
    """The manifest of a checkpoint that mergeflow made.

    Raises:
        CheckpointError: there is none, or it is damaged.
        UnreadableError: it is there, and cannot be read now.
    """
    try:
        body = parse_json(read_plain(directory / MANIFEST_NAME, _MAX_MANIFEST_BYTES))
        sums = read_plain(directory / SUMS_NAME, MAX_SUMS_BYTES)
        if not isinstance(body, dict) or body.keys() & _NOT_IN_THE_FILE:
            raise ValueError("it is not in the form that mergeflow writes")
        extra = {"path": str(directory), "object_id": hashlib.sha256(sums).hexdigest()}
        return CheckpointManifest.model_validate(body | extra)
    except (CheckpointError, ValueError) as error:
        why = printable(refused(error) if isinstance(error, CheckpointError) else error, 400)
        raise CheckpointError(
            f"no usable manifest of a mergeflow checkpoint: {why}", where=str(directory)
        ) from None


def _disagreements(
    said: CheckpointManifest, on_disk: CheckpointManifest, sums: Mapping[str, str]
) -> list[str]:
    """Where a manifest, the one on disk and SHA256SUMS say different things of one checkpoint."""
    problems = [
        f"{MANIFEST_NAME} gives another {field.replace('_', ' ')}"
        for field in sorted(CheckpointManifest.model_fields.keys() - {"path", "taken_over"})
        if getattr(said, field) != getattr(on_disk, field)
    ]
    listed = {file.name: file.sha256 for file in on_disk.files}
    if listed != {k: v for k, v in sums.items() if k != MANIFEST_NAME}:
        problems.append(f"{MANIFEST_NAME} lists other files than {SUMS_NAME}")
    directory = Path(said.path)
    sizes = {file.name: file.size for file in on_disk.files}
    if any((directory / name).stat().st_size != size for name, size in sizes.items()):
        problems.append(f"{MANIFEST_NAME} gives another size of a file")
    if model_digest(on_disk.files) != on_disk.digest:
        problems.append(f"{MANIFEST_NAME} gives another digest than its files have")
    return problems
