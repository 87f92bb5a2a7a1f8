"""Carrying out a plan: stream, complete, seal, publish; resume what an earlier run left."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path

from merge_core.distributed.coordinator import Workers, coordinate
from merge_core.distributed.job import input_files
from merge_core.engine.run import run_plan
from merge_core.errors import (
    CheckpointError,
    MergeflowError,
    OutputError,
    StepError,
    UnreadableError,
    unreadable,
)
from merge_core.files.digests import DigestMemo, fingerprint, settle
from merge_core.files.hashing import hash_files
from merge_core.files.private import private_umask
from merge_core.homes.home import Home
from merge_core.homes.store_access import StoreAccess
from merge_core.output.manifest import seal
from merge_core.output.model_files import write_model_files
from merge_core.output.shard_hasher import ShardHasher
from merge_core.output.shard_writer import output_error
from merge_core.output.staging import Staging
from merge_core.planning.layout import index_json, index_name
from merge_core.planning.plan import Plan
from merge_core.progress import Progress
from merge_core.records import CheckpointManifest, SourceAdapter, SourceCheckpoint, TakenOver
from merge_core.runtime.compute import Compute
from merge_core.runtime.threads import default_threads
from merge_core.runtime.timings import Timings
from merge_core.store.objects import Store, Wanted


def execute(
    plan: Plan,
    sources: Mapping[str, SourceCheckpoint],
    *,
    home: Home,
    out: Path | None = None,
    compute: Compute = Compute(),
    extra_files: Mapping[str, bytes] | None = None,
    workers: Workers | None = None,
    progress: Progress | None = None,
    timings: Timings | None = None,
    record: CheckpointManifest | None = None,
) -> CheckpointManifest:
    """Carry out a plan; a killed run of the same plan is resumed. Arguments as for `merge`.

    Args:
        workers: who computes; by default this process.
        extra_files: written in place of config, tokenizer and model card, for results that are not
            models.
        record: without `out`, what a step says that it made of this plan (`Store.find`).

    Raises:
        OutputError: `out` exists; and all that `merge` raises.
    """
    if out is not None:
        refuse_existing(out)
    timings = timings or Timings()
    access = StoreAccess.of(home.path) if out is None else None
    if access is not None:
        access.settle()
    if out is None:
        workplace, target = home.staging / plan.digest, home.objects / "{object_id}"
    else:
        out = absolute_without_dotdot(out)
        workplace = out.parent / f".{out.name}.mergeflow"
        target = Path(str(out).replace("{", "{{").replace("}", "}}"))
    store = Store(home)
    with (
        private_umask() if access else nullcontext(),
        Staging(workplace, plan, progress) as staging,
    ):
        if out is None and (known := store.find(Wanted.of(plan), record, progress)):
            staging.discard()
            return known
        if out is not None and out.exists():  # another process was faster
            staging.discard()
            refuse_existing(out)
        try:
            before = input_files(plan)
            _refuse_changed(sources, home)
            staging.prepare()
            if workers is not None:
                coordinate(plan, staging, workers, compute, progress)
            # Opened only now: another machine's writes may not show in a file that was open before.
            with ShardHasher(
                plan, staging.checkpoint, compute.threads or default_threads(), timings
            ) as hasher:
                hasher.finished(staging.finished)
                if workers is None:
                    run_plan(
                        plan, staging, compute, progress=progress, timings=timings, follower=hasher
                    )
                weights = hasher.digests(progress)
            if input_files(plan) != before:
                raise CheckpointError(
                    "an input changed while it was merged",
                    mend="wait until nothing writes to the inputs, and merge again",
                )
            if len(plan.shards) > 1:
                index = index_json([tensor.slot for tensor in plan.tensors], plan.shards)
                (staging.checkpoint / index_name(plan.shards)).write_bytes(index)
            taken_over = (
                write_model_files(plan, sources, staging.checkpoint)
                if extra_files is None
                else TakenOver()
            )
            for name, content in (extra_files or {}).items():
                (staging.checkpoint / name).write_bytes(content)
            # After all else: what was copied of the inputs has to be what they are known by, too.
            # What is in the store vouches for its inputs, so the memo is not asked.
            _refuse_changed(sources, home, afresh=out is None, progress=progress)
            manifest = seal(plan, staging.checkpoint, target, taken_over, weights)
            sealed = {
                file.name: fingerprint(staging.checkpoint / file.name) for file in manifest.files
            }
            if out is None:  # known before it is there: a kill in between costs nothing
                store.point(plan.digest, manifest.object_id)
                if store.is_there(manifest.object_id, progress):
                    staging.discard()
                    return manifest
        except (OutputError, StepError, UnreadableError):
            raise
        except OSError as error:
            raise _as_output_error(error, staging, None if out else home) from error
        except MergeflowError:
            staging.discard()
            raise
        with timings.during("wait"):
            if access is not None:
                sealed = staging.make_read_only(sealed, access)
            staging.publish(Path(manifest.path), access=access)
    _keep_digests(home, manifest, sealed)
    return manifest


def refuse_existing(out: Path) -> None:
    """Nothing is ever overwritten.

    Raises:
        OutputError: the place is taken.
    """
    if os.path.lexists(out):
        raise OutputError(
            "this already exists; nothing was written",
            where=str(out),
            mend="remove it, or name another output directory",
        )


def absolute_without_dotdot(out: Path) -> Path:
    """The absolute path of a place; without `..`, for which directories would have to be made."""
    return out.resolve() if ".." in out.parts else out.absolute()


def _refuse_changed(
    sources: Mapping[str, SourceCheckpoint],
    home: Home,
    *,
    afresh: bool = False,
    progress: Progress | None = None,
) -> None:
    """The inputs hold what their digests say: nobody wrote to them since they were identified.

    Args:
        afresh: read every byte of them, whatever the memo says.
    """
    memo = DigestMemo(home.digest_memo)
    parts: list[SourceCheckpoint | SourceAdapter] = list(sources.values())
    parts += [source.adapter for source in sources.values() if source.adapter]
    for part in parts:
        listed = {part.directory / file.name: file.sha256 for file in part.files}
        gone = [path for path in listed if not path.is_file()]
        changed = []
        if not gone:
            stage = f"check {part.reference}"
            found = hash_files(part.directory, list(listed), memo, stage, progress, afresh=afresh)
            pairs = zip(listed.items(), found, strict=True)
            changed = [path for (path, sha256), file in pairs if file.sha256 != sha256]
        if gone or changed:
            raise CheckpointError(
                "this file has changed since the merge began",
                where=str((gone or changed)[0]),
                mend="wait until nothing writes to the inputs, and merge again",
            )


def _keep_digests(home: Home, manifest: CheckpointManifest, sealed: Mapping[str, str]) -> None:
    """Save later users from hashing the result again: publishing changed only its place.

    Args:
        sealed: the fingerprint of each file that is as it was hashed.
    """
    memo, directory = DigestMemo(home.digest_memo), Path(manifest.path)
    with suppress(OSError):
        settle(directory / name for name in sealed)
        for file in manifest.files:
            path = directory / file.name
            if fingerprint(path) == sealed.get(file.name):
                memo.remember(path, file.sha256, sealed[file.name])


def _as_output_error(error: OSError, staging: Staging, home: Home | None) -> MergeflowError:
    """The error for a system call on a file beside the weights, while it was read or written."""
    place = Path(error.filename or staging.checkpoint)
    ours = (staging.directory, home.path) if home else (staging.directory,)
    written = any(place.is_relative_to(directory) for directory in ours)
    if written or error.errno in (errno.ENOSPC, errno.EDQUOT):
        return output_error(error, staging.checkpoint)
    return unreadable(place, error)
