"""Carrying out a plan: stream, complete, seal, publish; resume what an earlier run left."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from merge_core.digests import DigestMemo
from merge_core.engine import run_plan
from merge_core.errors import CheckpointError, MergeflowError, OutputError
from merge_core.home import Home
from merge_core.layout import index_json, index_name
from merge_core.manifest import read_manifest, seal, verify_manifest
from merge_core.model_files import write_model_files
from merge_core.plan import Plan
from merge_core.progress import Progress
from merge_core.records import CheckpointManifest, SourceCheckpoint, TakenOver
from merge_core.staging import Staging


def execute(
    plan: Plan,
    sources: Mapping[str, SourceCheckpoint],
    *,
    home: Home,
    out: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    block_elements: int | None = None,
    extra_files: Mapping[str, bytes] | None = None,
    progress: Progress | None = None,
) -> CheckpointManifest:
    """Carry out a plan; a killed run of the same plan is resumed. Arguments as for `merge`.

    Args:
        extra_files: written in place of config, tokenizer and model card, for results that are not
            models.

    Raises:
        OutputError: `out` exists; and all that `merge` raises.
    """
    if out is not None:
        refuse_existing(out)
    if out is None:
        workplace, target = home.staging / plan.digest, home.objects / "{object_id}"
    else:
        out = out.absolute()
        workplace, target = out.parent / f".{out.name}.mergeflow", Path(_literal(out))
    with Staging(workplace, plan) as staging:
        if out is None and (known := _published(home, plan)):
            staging.discard()
            return known
        before = _fingerprints(plan)
        staging.prepare()
        try:
            run_plan(
                plan,
                staging,
                device=device,
                threads=threads,
                block_elements=block_elements,
                progress=progress,
            )
            if _fingerprints(plan) != before:
                raise CheckpointError(
                    "an input changed while it was merged",
                    mend="wait until nothing writes to the inputs, and merge again",
                )
            if len(plan.shards) > 1:
                index = index_json([tensor.slot for tensor in plan.tensors], plan.shards)
                (staging.checkpoint / index_name(plan.shards)).write_bytes(index)
            taken_over = TakenOver()
            if extra_files is None:
                taken_over = write_model_files(plan, sources, staging.checkpoint)
            for name, content in (extra_files or {}).items():
                (staging.checkpoint / name).write_bytes(content)
            manifest = seal(plan, staging.checkpoint, target, taken_over, progress)
        except OutputError:
            raise
        except MergeflowError:
            staging.discard()
            raise
        staging.publish(Path(manifest.path), read_only=out is None, replace=out is None)
    if out is None:
        _remember(home, plan, manifest)
    return manifest


def refuse_existing(out: Path) -> None:
    """Nothing is ever overwritten.

    Raises:
        OutputError: the place is taken.
    """
    if out.exists() or out.is_symlink():
        raise OutputError(
            "this already exists; nothing was written",
            where=str(out),
            mend="remove it, or name another output directory",
        )


def _literal(path: Path) -> str:
    return str(path).replace("{", "{{").replace("}", "}}")


def _published(home: Home, plan: Plan) -> CheckpointManifest | None:
    """An earlier result of the same plan, when every byte of it is still there."""
    pointer = _pointer(home, plan)
    if not pointer.exists():
        return None
    try:
        manifest = read_manifest(home.objects / pointer.read_text().strip())
    except CheckpointError:
        return None
    return manifest if not verify_manifest(manifest, DigestMemo(home.digest_memo)) else None


def _remember(home: Home, plan: Plan, manifest: CheckpointManifest) -> None:
    pointer = _pointer(home, plan)
    pointer.parent.mkdir(parents=True, exist_ok=True)
    fresh = pointer.with_suffix(".new")
    fresh.write_text(manifest.object_id + "\n")
    fresh.rename(pointer)


def _pointer(home: Home, plan: Plan) -> Path:
    return home.path / "store" / "plans" / plan.digest


def _fingerprints(plan: Plan) -> str:
    """Size and modification time of every weight file that is read."""
    paths = {entry.path for tensor in plan.tensors for entry in tensor.computed.entries}
    digest = hashlib.sha256()
    for path in sorted(paths):
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns} {status.st_ino}\n".encode())
    return digest.hexdigest()
