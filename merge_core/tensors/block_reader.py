"""Positioned reads of tensor blocks: constant memory, no mapping, any number of threads."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from merge_core.errors import CheckpointError, unreadable
from merge_core.files.untrusted import open_plain
from merge_core.open_files import make_room
from merge_core.runtime.lazy_torch import torch
from merge_core.runtime.timings import Timings
from merge_core.tensors.dtypes import ITEM_SIZES, torch_dtype
from merge_core.tensors.safetensors_header import TensorEntry


class BlockReader:
    """Reads runs of elements from checkpoint files, keeping each file open once.

    Use as a context manager. Safe to share between threads: reads carry their own position.
    """

    def __init__(self, timings: Timings | None = None) -> None:
        self._timings = timings
        self._descriptors: dict[Path, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> BlockReader:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def read(
        self, entry: TensorEntry, start: int, count: int, buffer: bytearray | None = None
    ) -> torch.Tensor:
        """Elements `start : start + count` of a tensor, flat, in its stored dtype, on the CPU.

        With a `buffer` of enough bytes the result lives in it until the next read into it.

        Raises:
            CheckpointError: the file ended early (it changed since it was opened) or is unreadable.
        """
        size = ITEM_SIZES[entry.dtype]
        dtype = torch_dtype(entry.dtype)
        if not count:
            return torch.empty(0, dtype=dtype)
        if buffer is None:
            buffer = bytearray(count * size)
        self._fill(entry, memoryview(buffer)[: count * size], entry.offset + start * size)
        return torch.frombuffer(buffer, dtype=dtype, count=count)

    def read_bytes(self, entry: TensorEntry, start: int, count: int) -> bytearray:
        """The bytes of elements `start : start + count` of a tensor as they are stored.

        Raises:
            CheckpointError: as for `read`.
        """
        size = ITEM_SIZES[entry.dtype]
        buffer = bytearray(count * size)
        self._fill(entry, memoryview(buffer), entry.offset + start * size)
        return buffer

    def read_into(self, entry: TensorEntry, start: int, view: memoryview) -> None:
        """Fill a view of bytes with a tensor's bytes from the element `start` on.

        Raises:
            CheckpointError: as for `read`.
        """
        self._fill(entry, view, entry.offset + start * ITEM_SIZES[entry.dtype])

    def _fill(self, entry: TensorEntry, view: memoryview, position: int) -> None:
        descriptor = self.descriptor(entry.path)
        done = 0
        started = time.perf_counter()
        while done < len(view):
            try:
                rest = view[done:] if done else view
                count = os.preadv(descriptor, (rest,), position + done)
            except OSError as error:
                what = f"tensor {entry.name!r} cannot be read"
                raise unreadable(entry.path, error, what) from error
            if count == 0:
                raise CheckpointError(
                    f"the file ended inside tensor {entry.name!r}",
                    where=str(entry.path),
                    mend="something changed the checkpoint while it was read; start again",
                )
            done += count
        self.add_seconds(time.perf_counter() - started)

    def add_seconds(self, seconds: float) -> None:
        """Count time that was spent reading."""
        if self._timings:
            self._timings.add("read", seconds)

    def descriptor(self, path: Path) -> int:
        """An open file, to be read at positions until the reader is closed.

        Raises:
            CheckpointError: it cannot be opened, or is no plain file.
        """
        descriptor = self._descriptors.get(path)
        if descriptor is not None:
            return descriptor
        with self._lock:
            if path not in self._descriptors:
                make_room(len(self._descriptors))
                self._descriptors[path] = open_plain(path)
            return self._descriptors[path]
