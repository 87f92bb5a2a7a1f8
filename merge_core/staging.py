"""A merge in progress: a locked directory, preallocated files, and a journal of finished tensors.

A killed merge leaves this directory, never anything that looks like a checkpoint. The next merge of
the same plan takes it over and computes only what the journal does not vouch for.

The journal has one line for each finished tensor. After a kill its lines hold, since the kernel
still has the written pages; after a crash of the machine only those before the last `sync` line do,
which is written once the data is on disk. The machine's boot id tells the two apart.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import threading
from pathlib import Path
from types import TracebackType

from merge_core.errors import OutputError
from merge_core.plan import Plan

_SYNC_EVERY_BYTES = 1 << 30
_SLACK_BYTES = 32 << 20
_JOURNAL = "journal"
_CHECKPOINT = "checkpoint"


class Staging:
    """The working directory of one plan, held under an exclusive lock while in use."""

    def __init__(self, directory: Path, plan: Plan) -> None:
        self._directory = directory
        self._plan = plan
        self._lock_file = -1
        self._journal = -1
        self._shards: list[int] = []
        self._mutex = threading.Lock()
        self._unsynced = 0
        self.finished: set[int] = set()
        """Indices of the plan's tensors that are already in place."""

    @property
    def checkpoint(self) -> Path:
        """The directory that becomes the checkpoint."""
        return self._directory / _CHECKPOINT

    def __enter__(self) -> Staging:
        try:
            self._acquire()
        except OSError as error:
            raise _output_error(error, self._directory) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close_files()
        os.close(self._lock_file)

    def prepare(self) -> None:
        """Write headers and preallocate files, or take over what an earlier attempt finished.

        Raises:
            OutputError: the disk has too little room (nothing was written) or cannot be written.
        """
        try:
            self.finished = self._recover()
            if not self.finished:
                self._check_space()
                shutil.rmtree(self.checkpoint, ignore_errors=True)
                self.checkpoint.mkdir(parents=True)
            for path in self.checkpoint.rglob("*"):
                if not path.is_dir():
                    path.chmod(0o644)  # a merge killed while publishing left files read-only
            self._open_shards()
            self._open_journal()
        except OSError as error:
            raise _output_error(error, self._directory) from error

    def write(self, shard: int, data: memoryview, position: int) -> None:
        """Put bytes at their place in a shard's file.

        Raises:
            OutputError: the disk is full or failing.
        """
        done = 0
        while done < len(data):
            try:
                done += os.pwrite(self._shards[shard], data[done:], position + done)
            except OSError as error:
                raise _output_error(error, self._directory) from error

    def finish(self, index: int, nbytes: int) -> None:
        """Note that a tensor's bytes are all written. Call from any thread."""
        with self._mutex:
            try:
                os.write(self._journal, f"{index}\n".encode())
                self._unsynced += nbytes
                if self._unsynced >= _SYNC_EVERY_BYTES:
                    self._sync()
            except OSError as error:
                raise _output_error(error, self._directory) from error

    def close_files(self) -> None:
        """Close shards and journal; the lock stays."""
        for descriptor in (*self._shards, *((self._journal,) if self._journal >= 0 else ())):
            os.close(descriptor)
        self._shards, self._journal = [], -1

    def publish(self, target: Path, *, read_only: bool, replace: bool) -> None:
        """Make the checkpoint durable and move it to `target` in one rename; remove the rest.

        Args:
            read_only: take write permission from the files.
            replace: put it in the place of an earlier, damaged copy of the same content.

        Raises:
            OutputError: the place is taken, or cannot be written.
        """
        self.close_files()
        try:
            for path in sorted(self.checkpoint.rglob("*")):
                if read_only and not path.is_dir():
                    path.chmod(0o444)
                _fsync(path)
            _fsync(self.checkpoint)
            target.parent.mkdir(parents=True, exist_ok=True)
            if replace and target.exists():
                target.rename(self._directory / "replaced")
            self.checkpoint.rename(target)
            _fsync(target.parent)
            shutil.rmtree(self._directory)
        except OSError as error:
            raise _output_error(error, target) from error

    def discard(self) -> None:
        """Remove everything: the merge failed in a way that resuming cannot mend."""
        self.close_files()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _acquire(self) -> None:
        while True:
            self._directory.mkdir(parents=True, exist_ok=True)
            path = self._directory / "lock"
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:
                continue
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
                self._lock_file = descriptor
                return
            os.close(descriptor)

    def _recover(self) -> set[int]:
        try:
            lines = (self._directory / _JOURNAL).read_text().split("\n")[:-1]
            head = json.loads(lines[0])
        except (OSError, ValueError, IndexError):
            return set()
        if head.get("plan") != self._plan.digest or not self._files_are_sized():
            return set()
        body = lines[1:]
        if head.get("boot") != _boot_id():
            synced = [number for number, line in enumerate(body) if line == "sync"]
            body = body[: synced[-1]] if synced else []
        return {
            int(line) for line in body if line.isdecimal() and int(line) < len(self._plan.tensors)
        }

    def _files_are_sized(self) -> bool:
        for shard in self._plan.shards:
            path = self.checkpoint / shard.name
            if not path.is_file() or path.stat().st_size != shard.nbytes:
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
            shutil.rmtree(self._directory, ignore_errors=True)
            raise OutputError(
                f"the disk has {free / 1e9:.2f} GB free, the merge needs {needed / 1e9:.2f} GB",
                where=str(self._directory.parent),
                mend="free some space, or write to another disk; nothing was written",
            )

    def _open_shards(self) -> None:
        for shard in self._plan.shards:
            path = self.checkpoint / shard.name
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._shards.append(descriptor)
            if not self.finished:
                if shard.nbytes:
                    os.posix_fallocate(descriptor, 0, shard.nbytes)
                os.pwrite(descriptor, shard.header, 0)

    def _open_journal(self) -> None:
        path = self._directory / _JOURNAL
        lines = [str(index) for index in sorted(self.finished)]
        head = json.dumps({"plan": self._plan.digest, "boot": _boot_id()})
        fresh = path.with_suffix(".new")
        fresh.write_text("\n".join([head, *lines, ""]))
        fresh.rename(path)
        self._journal = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        if self.finished:
            self._sync()

    def _sync(self) -> None:
        for descriptor in self._shards:
            os.fdatasync(descriptor)
        os.write(self._journal, b"sync\n")
        os.fdatasync(self._journal)
        self._unsynced = 0


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _output_error(error: OSError, place: Path) -> OutputError:
    mends: dict[int | None, str] = {
        errno.ENOSPC: "free some space and run the same command again; finished tensors are kept",
        errno.EDQUOT: "your quota is used up; free some space and run the same command again",
        errno.EACCES: "you may not write there; choose another place",
        errno.EPERM: "you may not write there; choose another place",
        errno.EROFS: "that file system is read-only; choose another place",
        errno.ENOTEMPTY: "something else appeared at that place; choose another",
        errno.EEXIST: "something else appeared at that place; choose another",
    }
    return OutputError(
        f"cannot be written: {error.strerror}", where=str(place), mend=mends.get(error.errno)
    )
