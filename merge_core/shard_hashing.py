"""Hashes the files of a merge while they are being written.

A file's digest needs its bytes in order, and they are written in about file order: so each hashing
thread follows one file, up to the first byte that is not written yet, reading back what the kernel
still holds in memory. Where a file is written faster than one thread can hash it, hashing is what
the merge takes longest for: it gets a processor for itself, and a worker waits meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from merge_core.dtypes import ITEM_SIZES
from merge_core.plan import Plan
from merge_core.progress import Progress, Throttle
from merge_core.shard_writer import output_error
from merge_core.timings import Timings

_BLOCK = 1 << 20
_BEHIND = 64 << 20
"""Bytes of a file that wait to be hashed from which on its thread gets a processor for itself."""
_POLL = 0.1


class ShardHasher:
    """The digests of a plan's weight files, as they come to be. Use as a context manager.

    Args:
        directory: where the files are; they must exist in full length.
        threads: how many files are hashed at once.
    """

    def __init__(self, plan: Plan, directory: Path, threads: int, timings: Timings) -> None:
        self._directory = directory
        self._timings = timings
        self._changed = threading.Condition()
        self._given_up = False
        self.hashed = 0
        """Bytes of all files that were hashed so far."""
        self._slots = [tensor.slot for tensor in plan.tensors]
        self._names = [shard.name for shard in plan.shards]
        self._sizes = [shard.nbytes for shard in plan.shards]
        self._total = sum(self._sizes)
        self._written = [len(shard.header) for shard in plan.shards]
        """How many bytes at each file's beginning are in place."""
        self._positions = [0] * len(self._names)
        """How many of them have been hashed."""
        self._islands: list[dict[int, int]] = [{} for _ in self._names]
        """Ends of written ranges that lie further back, by their beginnings."""
        self._waiting = 0
        self._pool = ThreadPoolExecutor(max(1, min(threads, len(self._names))))
        self._digests: list[Future[str]] = []

    def __enter__(self) -> ShardHasher:
        self._digests = [self._pool.submit(self._hash, shard) for shard in range(len(self._names))]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._given_up = True
            self._changed.notify_all()
        self._pool.shutdown(cancel_futures=True)

    def finished(self, indices: Iterable[int]) -> None:
        """Tensors whose bytes are all in place."""
        for index in indices:
            self.written(index, 0, self._slots[index].numel)

    def written(self, index: int, start: int, stop: int) -> None:
        """Elements `start` to `stop` of a tensor are in place. Call from any thread."""
        slot = self._slots[index]
        size = ITEM_SIZES[slot.dtype]
        begin, end = slot.offset + start * size, slot.offset + stop * size
        islands = self._islands[slot.shard]
        with self._changed:
            reached = self._written[slot.shard]
            if begin > reached:
                islands[begin] = max(end, islands.get(begin, 0))
                return
            reached = max(end, reached)
            while reached in islands:
                reached = islands.pop(reached)
            self._written[slot.shard] = reached
            self._changed.notify_all()

    def pace(self, workers: int, is_over: Callable[[], bool]) -> None:
        """Wait while hashing is far behind, so that it gets a processor for itself.

        One worker always goes on. Who calls this computes, and would only take turns with the
        thread that all will wait for in the end.

        Args:
            workers: how many may call this at the same time.
            is_over: asked again and again; ends the wait.
        """
        with self._changed, self._timings.during("wait"):
            if self._waiting >= min(workers - 1, self._far_behind()):
                return
            self._waiting += 1
            try:
                while self._waiting <= self._far_behind() and not (self._given_up or is_over()):
                    self._changed.wait(_POLL)
            finally:
                self._waiting -= 1

    def digests(self, progress: Progress | None = None) -> dict[str, str]:
        """sha256 in hex of every file, when all its tensors are finished.

        Raises:
            OutputError: a file cannot be read back.
        """
        throttle = Throttle(progress, "hash", self._total)
        told = 0
        try:
            for future in self._digests:
                while not future.done():
                    with self._changed:
                        self._changed.wait(0.1)
                    throttle.advance(self.hashed - told)
                    told = self.hashed
            found = [future.result() for future in self._digests]
        except OSError as error:
            raise output_error(error, self._directory) from error
        throttle.advance(self._total - told)
        return dict(zip(self._names, found, strict=True))

    def _hash(self, shard: int) -> str:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(_BLOCK))
        descriptor = os.open(self._directory / self._names[shard], os.O_RDONLY | os.O_CLOEXEC)
        position = 0
        try:
            while position < self._sizes[shard]:
                written = self._wait_beyond(shard, position)
                with self._timings.during("hash"):
                    while position < written:
                        part = buffer[: min(_BLOCK, written - position)]
                        count = os.preadv(descriptor, [part], position)
                        if not count:
                            raise OSError(0, "the file became shorter")
                        digest.update(part[:count])
                        position += count
                        self._advance(shard, count)
        finally:
            os.close(descriptor)
        return digest.hexdigest()

    def _advance(self, shard: int, count: int) -> None:
        with self._changed:
            if self._given_up:
                raise InterruptedError
            behind = self._far_behind()
            self.hashed += count
            self._positions[shard] += count
            if self._far_behind() < behind:
                self._changed.notify_all()

    def _far_behind(self) -> int:
        """Of how many files much is written and not hashed."""
        ends = zip(self._written, self._positions, strict=True)
        return sum(written - position > _BEHIND for written, position in ends)

    def _wait_beyond(self, shard: int, position: int) -> int:
        """Wait for bytes beyond a position, and say where they end."""
        with self._changed:
            while not self._given_up:
                if self._written[shard] > position:
                    return self._written[shard]
                self._changed.wait()
        raise InterruptedError
