"""A merge in progress: a locked directory, preallocated files, and journals of finished tensors.

A killed merge leaves this directory, never anything that looks like a checkpoint. The next merge of
the same plan takes it over and computes only what the journals do not vouch for.

    lock                     held by the merge's coordinator, one process
    journal                  what that process finished, or took over
    job.json                 for workers: what to merge (merge_core.distributed.job)
    groups/<attempt>/        locks and journals of the workers
    checkpoint/              what will be published

An attempt is one preallocation of the files. A worker that outlived it writes to a journal that
nobody reads any more, so that it cannot vouch for files it never touched.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from merge_core.errors import OutputError
from merge_core.files.digests import fingerprint
from merge_core.files.durable import sync
from merge_core.files.private import make_private_directory
from merge_core.files.read_only import make_read_only
from merge_core.homes.store_access import StoreAccess
from merge_core.output.journal import Journal, attempt_of, vouched_for
from merge_core.output.shard_writer import ShardWriter, output_error
from merge_core.output.working_directory import (
    CHECKPOINT,
    GROUPS,
    JOURNAL,
    hold,
    remove,
    remove_entry,
)
from merge_core.planning.plan import Plan
from merge_core.progress import Progress

_SLACK_BYTES = 32 << 20


class Staging(ShardWriter):
    """The working directory of one plan, held under an exclusive lock while in use."""

    def __init__(self, directory: Path, plan: Plan, progress: Progress | None = None) -> None:
        super().__init__(directory, plan)
        self._progress = progress
        self._lock_file = -1
        self.attempt = ""
        """Names the preallocated files; known once prepared."""

    @property
    def directory(self) -> Path:
        """The working directory."""
        return self._directory

    def __enter__(self) -> Staging:
        try:
            self._lock_file = hold(self._directory, self._progress)
        except OSError as error:
            raise output_error(error, self._directory) from error
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        cause = error.__cause__ if isinstance(error, OutputError) else None
        if isinstance(cause, OSError) and cause.errno == errno.EIO:
            self.discard()  # the kernel may have dropped pages that the journal vouches for
        self.close_files()
        os.close(self._lock_file)

    def prepare(self) -> None:
        """Write headers and preallocate files, or take over what an earlier attempt finished.

        Raises:
            OutputError: the disk has too little room (nothing was written) or cannot be written.
        """
        try:
            self._recover()
            if not self.finished:
                self._check_space()
                self._start_afresh()
            shards = {shard.name for shard in self._plan.shards}
            for path in self.checkpoint.iterdir():
                if path.name in shards:
                    # A merge that was killed while publishing left files read-only.
                    path.chmod(stat.S_IMODE(path.stat().st_mode) | stat.S_IWUSR)
                else:
                    remove_entry(path)  # written again, and who knows what else is there
            self._open_shards(os.O_CREAT)
            if not self.finished:
                self._preallocate()
            self._journal = Journal(
                self._directory / JOURNAL, self._plan.digest, self.attempt, self.finished
            )
            if self.finished:
                self._sync()
        except OSError as error:
            raise output_error(error, self._directory) from error

    def vouched_for(self) -> set[int]:
        """The tensors that are in place by the journals of this process and of all workers."""
        workers = (self._directory / GROUPS / self.attempt).glob("*.journal")
        journals = [self._directory / JOURNAL, *workers]
        return vouched_for(journals, self._plan.digest, self.attempt, len(self._plan.tensors))

    def make_read_only(self, sealed: Mapping[str, str], access: StoreAccess) -> dict[str, str]:
        """Give files the modes of the store, which changes their fingerprints: the new ones.

        Args:
            sealed: fingerprints, by name, of files as they were hashed. Of one that was written to
                since there is none in what is returned.
            access: of the store that they go to: who may read them; nobody may write to them.

        Raises:
            OutputError: a file's mode cannot be changed.
        """
        self.close_files()
        kept = {}
        try:
            for path in sorted(self.checkpoint.rglob("*")):
                if path.is_dir():
                    continue
                name = path.relative_to(self.checkpoint).as_posix()
                as_hashed = fingerprint(path) == sealed.get(name)
                path.chmod(0o400)
                access.seal(path)
                if as_hashed:
                    kept[name] = fingerprint(path)
        except OSError as error:
            raise output_error(error, self._directory) from error
        return kept

    def publish(self, target: Path, *, access: StoreAccess | None) -> None:
        """Make the checkpoint durable and move it to `target` in one rename; remove the rest.

        Args:
            access: of the store that it goes to: who may read it; nobody may write to it.

        Raises:
            OutputError: the place is taken, or cannot be written.
        """
        self.close_files()
        try:
            for path in sorted(self.checkpoint.rglob("*")):
                if access and path.is_dir():
                    access.seal(path)
                sync(path)
            if access:
                access.seal(self.checkpoint)
                make_private_directory(target.parent)
                access.settle()
            sync(self.checkpoint)
            target.parent.mkdir(parents=True, exist_ok=True)
            self.checkpoint.rename(target)
            if access:
                make_read_only(target)
            sync(target.parent)
            # A worker that comes too late may be writing a journal there: no reason to fail now.
            remove(self._directory)
        except OSError as error:
            raise output_error(error, target) from error

    def discard(self) -> None:
        """Remove everything: the merge failed in a way that resuming cannot mend."""
        self.close_files()
        remove(self._directory)

    def _recover(self) -> None:
        attempt = attempt_of(self._directory / JOURNAL, self._plan.digest)
        if attempt is not None and self._files_are_sized():
            self.attempt = attempt
            self.finished = self.vouched_for()

    def _files_are_sized(self) -> bool:
        if self.checkpoint.is_symlink():
            return False
        for shard in self._plan.shards:
            try:
                status = (self.checkpoint / shard.name).lstat()
            except FileNotFoundError:
                return False
            if not stat.S_ISREG(status.st_mode) or status.st_size != shard.nbytes:
                return False
        return True

    def _check_space(self) -> None:
        needed = self._plan.output_bytes + _SLACK_BYTES
        held = sum(
            path.stat().st_blocks * 512 for path in self.checkpoint.glob("*") if path.is_file()
        )
        status = os.statvfs(self._directory)
        free = status.f_bavail * status.f_frsize + held
        if free < needed:
            remove(self._directory)
            raise OutputError(
                f"the disk has {free / 1e9:.2f} GB free, the merge needs {needed / 1e9:.2f} GB",
                where=str(self._directory.parent),
                mend="free some space, or write to another disk; nothing was written",
            )

    def _start_afresh(self) -> None:
        for name in (JOURNAL, GROUPS, CHECKPOINT):
            remove_entry(self._directory / name)
        self.checkpoint.mkdir(parents=True)
        self.attempt = secrets.token_hex(8)
        (self._directory / GROUPS / self.attempt).mkdir(parents=True)

    def _preallocate(self) -> None:
        for descriptor, shard in zip(self._shards, self._plan.shards, strict=True):
            if shard.nbytes:
                os.posix_fallocate(descriptor, 0, shard.nbytes)
            os.pwrite(descriptor, shard.header, 0)
