"""Writes tensors to their places in a plan's preallocated files, and keeps a journal of them."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

from merge_core.errors import TO_FREE_MEMORY, OutputError
from merge_core.output.journal import Journal
from merge_core.output.working_directory import CHECKPOINT
from merge_core.output.write_back import begin_write_back
from merge_core.planning.plan import Plan

_SYNC_EVERY_BYTES = 1 << 30


class ShardWriter:
    """What the engine writes to. Positioned writes: several may work on one file at a time."""

    def __init__(self, directory: Path, plan: Plan) -> None:
        self._directory = directory
        self._plan = plan
        self._journal: Journal | None = None
        self._shards: list[int] = []
        self._mutex = threading.Lock()
        self._unsynced = 0
        self.finished: set[int] = set()
        """Indices of the plan's tensors that are already in place."""

    @property
    def checkpoint(self) -> Path:
        """The directory that becomes the checkpoint."""
        return self._directory / CHECKPOINT

    def descriptor(self, shard: int) -> int:
        """A shard's open file."""
        return self._shards[shard]

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
                raise output_error(error, self._directory) from error

    def finish(self, index: int, nbytes: int) -> None:
        """Note that a tensor's bytes are all written. Call from any thread.

        Raises:
            OutputError: the disk is full or failing.
        """
        assert self._journal is not None
        self._begin_write_back(index)
        with self._mutex:
            try:
                self._journal.note(index)
                self._unsynced += nbytes
                if self._unsynced >= _SYNC_EVERY_BYTES:
                    self._sync()
            except OSError as error:
                raise output_error(error, self._directory) from error

    def close_files(self) -> None:
        """Close shards and journal."""
        for descriptor in self._shards:
            os.close(descriptor)
        if self._journal is not None:
            self._journal.close()
        self._shards, self._journal = [], None

    def _open_shards(self, flags: int = 0) -> None:
        flags |= os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        for shard in self._plan.shards:
            self._shards.append(os.open(self.checkpoint / shard.name, flags, 0o644))

    def _begin_write_back(self, index: int) -> None:
        """Else the next flush writes a whole GiB while every worker waits for it."""
        slot = self._plan.tensors[index].slot
        begin_write_back(self._shards[slot.shard], slot.offset, slot.nbytes)

    def _sync(self) -> None:
        assert self._journal is not None
        for descriptor in self._shards:
            os.fdatasync(descriptor)
        self._journal.note_synced()
        self._unsynced = 0


def output_error(error: OSError, place: Path) -> OutputError:
    """What the system said of a file that cannot be written, with what to do about it."""
    mends: dict[int | None, str] = {
        errno.ENOSPC: "free some space and run the same command again; finished tensors are kept",
        errno.EDQUOT: "your quota is used up; free some space and run the same command again",
        errno.EACCES: "you may not write there; choose another place",
        errno.EPERM: "you may not write there; choose another place",
        errno.EROFS: "that file system is read-only; choose another place",
        errno.ENOTDIR: "a part of that path is a file; choose another place",
        errno.ENAMETOOLONG: "choose a shorter name",
        errno.ENOENT: "see that the place can be made and that nothing removes it, and run again",
        errno.EFBIG: "files may not become that large there (`ulimit -f`, or the file system's own"
        " limit); raise it, use a smaller --shard-size, or choose another place",
        errno.ENOTEMPTY: "something else appeared at that place; choose another",
        errno.EEXIST: "something else appeared at that place; choose another",
        errno.ENOMEM: TO_FREE_MEMORY,
    }
    mend = mends.get(error.errno, "look after that disk, and run the same command again")
    return OutputError(f"cannot be written: {error.strerror}", where=str(place), mend=mend)
