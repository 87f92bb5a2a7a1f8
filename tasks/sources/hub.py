"""Checkpoints on the Hugging Face Hub: a repository is checked before any weight is fetched.

The headers of remote safetensors files are read with ranged requests, so a merge of checkpoints
that do not fit together is refused within seconds instead of after a download.
"""

from __future__ import annotations

import contextlib
import glob
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from merge_core.checkpoints.safetensors_files import (
    ADAPTER_WEIGHTS,
    INDEX_SUFFIX,
    refuse_doubtful,
    stem_of,
    used_files,
    weight_map_in,
)
from merge_core.errors import CheckpointError, OutputError
from merge_core.files.bounded_json import read_json
from merge_core.files.names import MODULES_NAME, holds_weights, is_model_file, is_weight_file
from merge_core.findings import printable
from merge_core.progress import Progress, ProgressEvent
from merge_core.records import Record, SourceAdapter, SourceCheckpoint
from merge_core.verification.headers import CheckpointFacts
from tasks.hub_answers import explained, hub_address, hub_cache
from tasks.sources.references import HubReference

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_CONFIG = "config.json"
_POLL_SECONDS = 0.5
_MODULE_FILE = re.compile(r"\d+_\w+/[^/]+\.json")
"""Settings of a module of a sentence encoder, in a directory named as its library names it."""


class HubFile(Record):
    """One file of a repository. `sha256` is known for files in large file storage."""

    name: str
    size: int
    sha256: str | None = None


class HubListing(Record):
    """A repository at one commit: its model files, without their content."""

    repository: str
    commit: str
    files: tuple[HubFile, ...]
    weights_beside: tuple[str, ...] = ()
    """Names of weight files that are no part of the model, and not fetched."""

    @property
    def bytes(self) -> int:
        """What downloading all of it takes."""
        return sum(file.size for file in self.files)

    @property
    def shards(self) -> list[str]:
        """Names of the files that hold its weights."""
        return [file.name for file in self.files if holds_weights(file.name)]


def list_repository(reference: HubReference, *, is_adapter: bool = False) -> HubListing:
    """Resolve a branch or tag to its commit and list the model files there.

    Of weights only those that the index names: what lies beside them in another layout, or is
    left over, is not the model's. Of an adapter's repository only the adapter's.

    Raises:
        CheckpointError: no such repository or revision, no access, or no safetensors weights.
        HubUnreachableError: the Hub did not answer.
    """
    from huggingface_hub import constants
    from huggingface_hub.hf_api import RepoFile

    where = _name(reference)
    with explained(where):
        api = _api()
        resolved = api.resolve_revision(
            reference.repository,
            revision=reference.revision or "main",
            cache_dir=constants.HF_HUB_CACHE,
        )
        commit = resolved.resolved
        tree = list(api.list_repo_tree(reference.repository, revision=commit, recursive=False))
        if any(entry.path == MODULES_NAME for entry in tree):
            tree = list(api.list_repo_tree(reference.repository, revision=commit, recursive=True))
    names = [entry.path for entry in tree]
    files = tuple(
        HubFile(
            name=entry.path,
            size=entry.size,
            sha256=entry.lfs.sha256 if entry.lfs else None,
        )
        for entry in tree
        if isinstance(entry, RepoFile) and _is_wanted(entry.path)
    )
    listing = HubListing(repository=reference.repository, commit=commit, files=files)
    if not listing.shards:
        raise _no_weights(where, [name for name in names if name.endswith(_PICKLES)])
    return _with_used_weights(listing, is_adapter)


def list_revisions(repository: str) -> list[tuple[str, str]]:
    """Every branch and tag of a repository, by name, with the commit that it is at now.

    Raises:
        CheckpointError: no such repository, or no access.
        HubUnreachableError: the Hub did not answer.
    """
    with explained(repository):
        refs = _api().list_repo_refs(repository)
    found = {ref.name: ref.target_commit for ref in (*refs.branches, *refs.tags)}
    return sorted(found.items())


def read_small_file(repository: str, commit: str, name: str) -> Path | None:
    """One file of a repository at a commit, in the Hub's cache; None when it has no such file.

    Raises:
        CheckpointError: no such repository or commit, or no access.
        HubUnreachableError: the Hub did not answer.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with explained(f"{repository}@{commit[:12]}"):
        try:
            file = hf_hub_download(repository, name, revision=commit, endpoint=_api().endpoint)
        except RemoteEntryNotFoundError:
            return None
    return Path(file)


def remote_facts(reference: str, listing: HubListing) -> CheckpointFacts:
    """Config and tensor headers of a repository, by one ranged request for each shard.

    Raises:
        CheckpointError: a file contradicts its format.
        HubUnreachableError: the Hub did not answer.
    """
    from huggingface_hub import hf_hub_download

    _refuse_doubtful_index(listing)
    headers: dict[str, tuple[str, tuple[int, ...]]] = {}
    config = None
    with explained(f"{listing.repository}@{listing.commit[:12]}"):
        api = _api()
        for shard in listing.shards:
            header = api.parse_safetensors_file_metadata(
                listing.repository, shard, revision=listing.commit
            )
            headers |= {
                name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in header.tensors.items()
            }
        if any(file.name == _CONFIG for file in listing.files):
            config = hf_hub_download(
                listing.repository, _CONFIG, revision=listing.commit, endpoint=api.endpoint
            )
    return CheckpointFacts(reference, headers, read_json(Path(config)) if config else {})


def _with_used_weights(listing: HubListing, is_adapter: bool) -> HubListing:
    """A listing with those of its weights that are read."""
    names = {file.name for file in listing.files}
    if is_adapter:
        used = frozenset((ADAPTER_WEIGHTS,))
    else:
        stem = stem_of(names)
        weight_map = _weight_map(listing, stem) if stem else None
        if stem is None or (weight_map is None and f"{stem}{INDEX_SUFFIX}" in names):
            return listing  # the fault is told where the index is opened
        used = used_files(stem, weight_map)
    if not used & names:
        return listing
    kept = tuple(f for f in listing.files if f.name in used or not is_weight_file(f.name))
    return listing.model_copy(
        update={
            "files": kept,
            "weights_beside": tuple(sorted(name for name in names - used if is_weight_file(name))),
        }
    )


def _weight_map(listing: HubListing, stem: str) -> dict[str, str] | None:
    """The content of a repository's index; None where there is none, or none that can be read."""
    path = read_small_file(listing.repository, listing.commit, f"{stem}{INDEX_SUFFIX}")
    try:
        return weight_map_in(path) if path else None
    except CheckpointError:
        return None


def _refuse_doubtful_index(listing: HubListing) -> None:
    """Refuse, before a download, what `open_checkpoint` would refuse after it.

    Raises:
        CheckpointError: a shard is missing, or the index names only some of a set.
    """
    where = f"{listing.repository}@{listing.commit[:12]}"
    names = {file.name for file in listing.files} | {*listing.weights_beside}
    stem = stem_of(names)
    weight_map = _weight_map(listing, stem) if stem else None
    if stem is None or weight_map is None:
        return
    missing = sorted({*weight_map.values()} - names)
    if missing:
        raise CheckpointError(
            f"the repository lacks {printable(missing[0])}, which its index names"
            f" ({len(missing)} missing)",
            where=where,
            mend="take another revision of it, or tell its publisher",
        )
    refuse_doubtful(stem, weight_map, names, where)


def download(listing: HubListing, progress: Progress | None = None) -> Path:
    """Fetch the missing model files of a repository into the Hub's own cache.

    Raises:
        OutputError: the disk has no room for the missing files.
        HubUnreachableError: the Hub stopped answering.
    """
    from huggingface_hub import snapshot_download

    cache = hub_cache()
    where = f"{listing.repository}@{listing.commit[:12]}"
    blobs = cache / f"models--{listing.repository.replace('/', '--')}" / "blobs"
    missing = _missing_bytes(listing, blobs.parent / "snapshots" / listing.commit)
    _check_room(cache, missing, where)
    with explained(where), _watched(blobs, missing, f"download {where}", progress):
        snapshot = snapshot_download(
            listing.repository,
            revision=listing.commit,
            allow_patterns=[glob.escape(file.name) for file in listing.files],
            endpoint=_api().endpoint,
        )
    return Path(snapshot)


def downloaded(reference: HubReference) -> Path:
    """The snapshot of an earlier download, without asking the Hub.

    Raises:
        CheckpointError: it was never, or not completely, downloaded.
    """
    from huggingface_hub import constants, snapshot_download

    with explained(_name(reference)):
        return Path(
            snapshot_download(
                reference.repository,
                revision=reference.revision,
                cache_dir=constants.HF_HUB_CACHE,
                local_files_only=True,
            )
        )


def check_download(listing: HubListing, source: SourceCheckpoint | SourceAdapter) -> None:
    """Compare the downloaded files with the digests that the Hub publishes.

    Raises:
        CheckpointError: a file's content has another digest than the Hub published.
    """
    published = {file.name: file.sha256 for file in listing.files if file.sha256}
    for file in source.files:
        if published.get(file.name, file.sha256) != file.sha256:
            raise CheckpointError(
                f"{file.name} is not what the Hub published (sha256 {file.sha256[:12]}...,"
                f" expected {published[file.name]})",
                where=source.reference,
                mend=f"remove {source.directory / file.name} and its blob, and run again",
            )


def _is_wanted(name: str) -> bool:
    """Whether a file of a repository is fetched: the model's, its modules' and its own code.

    Code is only ever read and, where the user asks for it, copied; nothing here runs it.
    """
    in_root = "/" not in name
    return (
        is_model_file(name)
        or bool(_MODULE_FILE.fullmatch(name))
        or (in_root and name.endswith(".py"))
    )


def _api() -> HfApi:
    """The client for `$HF_ENDPOINT`, else the public Hub; progress and errors are told by us."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars, logging

    disable_progress_bars()
    logging.set_verbosity_error()
    return HfApi(endpoint=hub_address(), library_name="mergeflow")


def _missing_bytes(listing: HubListing, snapshot: Path) -> int:
    return sum(file.size for file in listing.files if not (snapshot / file.name).exists())


def _check_room(cache: Path, needed: int, where: str) -> None:
    existing = next(place for place in (cache, *cache.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise OutputError(
            f"the download needs {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free",
            where=where,
            mend="make room, or set HF_HOME to a larger disk",
        )


@contextlib.contextmanager
def _watched(blobs: Path, total: int, stage: str, progress: Progress | None) -> Iterator[None]:
    """Report how much a download has written, by the growth of the files it writes to."""
    if progress is None or total == 0:
        yield
        return
    before = _bytes_in(blobs)
    done = threading.Event()

    def report(emit: Progress) -> None:
        while not done.wait(_POLL_SECONDS):
            emit(ProgressEvent(stage, min(_bytes_in(blobs) - before, total), total))

    watcher = threading.Thread(target=report, args=(progress,), daemon=True)
    watcher.start()
    try:
        yield
        progress(ProgressEvent(stage, total, total))
    finally:
        done.set()
        watcher.join()


def _bytes_in(directory: Path) -> int:
    total = 0
    for path in directory.glob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


def _no_weights(where: str, pickles: list[str]) -> CheckpointError:
    if pickles:
        return CheckpointError(
            f"{pickles[0]} is a pickle, which can run code when loaded; only safetensors are read",
            where=where,
            mend="look for a revision with safetensors, or convert it once: load it with"
            " transformers and call save_pretrained(DIRECTORY)",
        )
    return CheckpointError("the repository holds no safetensors weights", where=where)


def _name(reference: HubReference) -> str:
    return f"{reference.repository}@{reference.revision or 'main'}"
