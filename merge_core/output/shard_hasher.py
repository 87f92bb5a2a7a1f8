"""Hashes the files of a merge while they are being written.

A file's digest needs its bytes in order, and they are written in about file order: so each hashing
thread follows one file, up to the first byte that is not written yet, reading back what the kernel
still holds in memory. A digest is one long chain that one thread computes: where a file is written
faster than that, and all processors are taken, workers wait and leave theirs to the hashing threads
that fall behind, since the merge would wait for these in the end.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from merge_core.output.shard_writer import output_error
from merge_core.planning.plan import Plan
from merge_core.progress import Progress, Throttle
from merge_core.runtime.processors import processors
from merge_core.runtime.timings import Timings
from merge_core.tensors.dtypes import ITEM_SIZES

_BLOCK = 1 << 20
_BEHIND = 64 << 20
"""Bytes of a file that wait to be hashed from which on its thread is behind."""
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
        self._followed: set[int] = set()
        """The files that threads are hashing."""
        self._behind: set[int] = set()
        """Shards with much written that is not hashed yet."""
        self._waiting = 0
        self._given_up = False
        self._failure: OSError | None = None
        self.hashed = 0
        """Bytes of all files that were hashed so far."""
        lock = threading.Lock()
        self._more_written = threading.Condition(lock)
        self._fewer_behind = threading.Condition(lock)
        self._pool = ThreadPoolExecutor(max(1, min(threads, len(self._names))))
        self._digests: list[Future[str]] = []

    def __enter__(self) -> ShardHasher:
        self._digests = [self._pool.submit(self._hash, shard) for shard in range(len(self._names))]
        return self

    def __exit__(self, *_: object) -> None:
        with self._more_written:
            self._given_up = True
            self._more_written.notify_all()
            self._fewer_behind.notify_all()
        self._pool.shutdown(cancel_futures=True)

    def finished(self, indices: Iterable[int]) -> None:
        """Tensors whose bytes are all in place."""
        with self._more_written:
            for index in indices:
                self._note(index, 0, self._slots[index].numel)
            self._more_written.notify_all()

    def written(self, index: int, start: int, stop: int) -> None:
        """Elements `start` to `stop` of a tensor are in place. Call from any thread."""
        with self._more_written:
            if self._note(index, start, stop):
                self._more_written.notify_all()

    def pace(self, workers: int, is_over: Callable[[], bool]) -> None:
        """Wait while hashing is behind and has no processor for itself; one worker always goes on.

        Args:
            workers: how many may call this at the same time; they compute in between.
            is_over: asked again and again; ends the wait.

        Raises:
            OutputError: a file cannot be read back, so that going on leads nowhere.
        """
        if not self._behind and self._failure is None:  # most often, and 100 000 times
            return
        spare = max(0, processors() - workers)

        def places() -> int:
            if self._given_up or self._failure or is_over():
                return 0
            return min(workers - 1, len(self._behind) - spare)

        with self._fewer_behind:
            if self._waiting < places():
                self._waiting += 1
                with self._timings.during("wait"):
                    while self._waiting <= places():
                        self._fewer_behind.wait(_POLL)
                self._waiting -= 1
        if self._failure:
            raise output_error(self._failure, self._directory) from self._failure

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
                    wait([future], _POLL)
                    throttle.advance(self.hashed - told)
                    told = self.hashed
            found = [future.result() for future in self._digests]
        except OSError as error:
            raise output_error(error, self._directory) from error
        throttle.advance(self._total - told)
        return dict(zip(self._names, found, strict=True))

    def _hash(self, shard: int) -> str:
        self._look_after(shard, followed=True)
        try:
            return self._followed_to_its_end(shard)
        except OSError as error:
            self._failure = None if self._given_up else error
            raise
        finally:
            self._look_after(shard, followed=False)

    def _followed_to_its_end(self, shard: int) -> str:
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

    def _wait_beyond(self, shard: int, position: int) -> int:
        """Wait for bytes beyond a position, and say where they end."""
        with self._more_written:
            while not self._given_up:
                if self._written[shard] > position:
                    return self._written[shard]
                self._more_written.wait()
        raise InterruptedError

    def _advance(self, shard: int, count: int) -> None:
        with self._more_written:
            if self._given_up:
                raise InterruptedError
            self.hashed += count
            self._positions[shard] += count
            self._count(shard)

    def _look_after(self, shard: int, *, followed: bool) -> None:
        with self._more_written:
            (self._followed.add if followed else self._followed.discard)(shard)
            self._count(shard)

    def _note(self, index: int, start: int, stop: int) -> bool:
        """Note what is in place, under the lock; whether a file's beginning grew."""
        slot = self._slots[index]
        size = ITEM_SIZES[slot.dtype]
        begin, end = slot.offset + start * size, slot.offset + stop * size
        reached, islands = self._written[slot.shard], self._islands[slot.shard]
        if begin > reached:
            islands[begin] = max(end, islands.get(begin, 0))
            return False
        if end <= reached:
            return False
        while end in islands:
            end = islands.pop(end)
        self._written[slot.shard] = end
        self._count(slot.shard)
        return True

    def _count(self, shard: int) -> None:
        """Keep `_behind` right, under the lock, when something of a file has changed."""
        left = self._written[shard] - self._positions[shard]
        if shard in self._followed and left > _BEHIND:
            self._behind.add(shard)
        elif shard in self._behind:
            self._behind.discard(shard)
            self._fewer_behind.notify_all()
