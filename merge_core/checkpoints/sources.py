"""From a directory to a `SourceCheckpoint`, and from there to its tensors.

Which files count and what they hash to; and the checkpoint that a source stands for, which is one
on disk, or one on disk with an adapter applied as it is read.
"""

from __future__ import annotations

from pathlib import Path

from merge_core.checkpoints.adapters import adapted, open_adapter
from merge_core.checkpoints.adapters.config import CONFIG_NAME, WEIGHTS_NAME
from merge_core.checkpoints.checkpoint import Checkpoint, open_checkpoint, reader_of
from merge_core.checkpoints.companion_files import code_names, companion_names
from merge_core.files.digests import DigestMemo, digest_of, model_digest
from merge_core.files.hashing import hash_files
from merge_core.files.names import is_model_file, is_weight_file
from merge_core.files.untrusted import check_plain
from merge_core.progress import Progress
from merge_core.records import SourceAdapter, SourceCheckpoint
from merge_core.tensors.safetensors_header import KnownHeaders


def describe_source(
    reference: str,
    directory: Path,
    memo: DigestMemo,
    *,
    revision: str | None = None,
    progress: Progress | None = None,
) -> SourceCheckpoint:
    """Check a checkpoint's headers and identify it by the content of its model files.

    Raises:
        CheckpointError: see `merge_core.checkpoints.checkpoint.open_checkpoint`.
    """
    directory = directory.absolute()
    open_checkpoint(directory)
    files = hash_files(directory, model_files(directory), memo, f"hash {reference}", progress)
    return SourceCheckpoint(
        reference=reference,
        path=str(directory),
        revision=revision,
        digest=model_digest(files),
        files=files,
    )


def describe_adapter(
    reference: str,
    directory: Path,
    memo: DigestMemo,
    *,
    revision: str | None = None,
    progress: Progress | None = None,
) -> SourceAdapter:
    """Check a LoRA adapter's settings and headers and identify it by its content.

    Raises:
        CheckpointError: see `merge_core.checkpoints.adapters.open_adapter`.
    """
    directory = directory.absolute()
    open_adapter(directory)
    files = hash_files(directory, adapter_files(directory), memo, f"hash {reference}", progress)
    return SourceAdapter(
        reference=reference,
        path=str(directory),
        revision=revision,
        digest=model_digest(files),
        files=files,
    )


def with_adapter(
    reference: str, base: SourceCheckpoint, adapter: SourceAdapter
) -> SourceCheckpoint:
    """The source that is a base with an adapter applied.

    Raises:
        CompatibilityError: the adapter does not belong to this base.
    """
    source = base.model_copy(
        update={
            "reference": reference,
            "digest": digest_of({"base": base.digest, "adapter": adapter.digest}),
            "adapter": adapter,
        }
    )
    open_source(source)
    return source


def has_its_own_digest(source: SourceCheckpoint) -> bool:
    """Whether the digest of a source is that of the files it lists, and not another's."""
    if source.adapter is None:
        return source.digest == model_digest(source.files)
    added = source.adapter.digest
    whole = digest_of({"base": model_digest(source.files), "adapter": added})
    return source.digest == whole and added == model_digest(source.adapter.files)


def open_source(source: SourceCheckpoint, known: KnownHeaders | None = None) -> Checkpoint:
    """The tensors of a source, with its adapter, if it has one, applied as they are read.

    Args:
        known: as for `open_checkpoint`.

    Raises:
        CheckpointError: see `open_checkpoint` and `open_adapter`.
        CompatibilityError: the adapter does not belong to the base.
    """
    checkpoint = open_checkpoint(source.directory, known)
    if source.adapter is None:
        return checkpoint
    return adapted(checkpoint, open_adapter(source.adapter.directory))


def adapter_files(directory: Path) -> list[Path]:
    """The files of an adapter directory that decide what it adds, by name."""
    found = [directory / CONFIG_NAME, directory / WEIGHTS_NAME]
    present = [path for path in found if path.is_file()]
    for path in present:
        check_plain(directory.resolve(), path)
    return present


def model_files(directory: Path) -> list[Path]:
    """The files of a checkpoint directory that decide what the model computes, by name.

    Raises:
        CheckpointError: the checkpoint names files that are not in its directory, or one is a link
            out of it or no plain file.
    """
    root = directory.resolve()
    names = {path.name for path in directory.iterdir() if is_model_file(path.name)}
    used = reader_of(directory).used(directory)
    if used is not None:
        names = {name for name in names if name in used or not is_weight_file(name)}
    names |= {*companion_names(directory), *code_names(directory)}
    for name in names:
        check_plain(root, directory / name)
    return [directory / name for name in sorted(names)]


def former_digest(source: SourceCheckpoint, memo: DigestMemo) -> str:
    """The digest that a source had while every weight file beside a checkpoint counted as its own.

    Registries and records of those days know it by that.
    """
    directory = source.directory
    known = {file.name for file in source.files}
    others = [
        path
        for path in sorted(directory.iterdir())
        if is_weight_file(path.name) and path.name not in known
    ]
    for path in others:
        check_plain(directory.resolve(), path)
    more = hash_files(directory, others, memo, f"hash {source.reference}") if others else ()
    return model_digest((*source.files, *more))
