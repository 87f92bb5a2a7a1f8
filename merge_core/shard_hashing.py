"""Hashes the files of a merge while they are being written.

A file's digest needs its bytes in order, and tensors are finished in about file order: so each
hashing thread follows one file, up to the first tensor that is not finished yet, reading back what
the kernel still holds in memory. When the last tensor is written little is left to hash.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from merge_core.plan import Plan
from merge_core.progress import Progress, Throttle
from merge_core.shard_writer import output_error
from merge_core.timings import Timings

_BLOCK = 1 << 20


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
        self._done: set[int] = set()
        self._given_up = False
        self.hashed = 0
        """Bytes of all files that were hashed so far."""
        self._names = [shard.name for shard in plan.shards]
        self._total = sum(shard.nbytes for shard in plan.shards)
        places: list[list[tuple[int, int, int]]] = [[] for _ in plan.shards]
        for index, tensor in enumerate(plan.tensors):
            slot = tensor.slot
            places[slot.shard].append((slot.offset, slot.offset + slot.nbytes, index))
        self._places = [sorted(those) for those in places]
        self._sizes = [shard.nbytes for shard in plan.shards]
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
        with self._changed:
            self._done.update(indices)
            self._changed.notify_all()

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
        position, place = 0, 0
        try:
            while position < self._sizes[shard]:
                place, ready = self._wait(shard, place, position)
                with self._timings.during("hash"):
                    while position < ready:
                        part = buffer[: min(_BLOCK, ready - position)]
                        count = os.preadv(descriptor, [part], position)
                        if not count:
                            raise OSError(0, "the file became shorter")
                        digest.update(part[:count])
                        position += count
                        with self._changed:
                            self.hashed += count
                            if self._given_up:
                                raise InterruptedError
        finally:
            os.close(descriptor)
        return digest.hexdigest()

    def _wait(self, shard: int, place: int, position: int) -> tuple[int, int]:
        """Wait for bytes beyond a position; the first unfinished place, and where the bytes end."""
        places = self._places[shard]
        with self._changed:
            while True:
                if self._given_up:
                    raise InterruptedError
                while place < len(places) and places[place][2] in self._done:
                    place += 1
                ready = places[place][0] if place < len(places) else self._sizes[shard]
                if ready > position:
                    return place, ready
                self._changed.wait()
