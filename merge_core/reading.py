"""Positioned reads of tensor blocks: constant memory, no mapping, any number of threads."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType

import torch

from merge_core.dtypes import ITEM_SIZES, TORCH_DTYPES
from merge_core.errors import CheckpointError
from merge_core.safetensors_header import TensorEntry


class BlockReader:
    """Reads runs of elements from checkpoint files, keeping each file open once.

    Use as a context manager. Safe to share between threads: reads carry their own position.
    """

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> BlockReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
        dtype = TORCH_DTYPES[entry.dtype]
        if not count:
            return torch.empty(0, dtype=dtype)
        if buffer is None:
            buffer = bytearray(count * size)
        self._fill(entry, memoryview(buffer)[: count * size], entry.offset + start * size)
        return torch.frombuffer(buffer, dtype=dtype, count=count)

    def _fill(self, entry: TensorEntry, view: memoryview, position: int) -> None:
        descriptor = self._descriptor(entry.path)
        done = 0
        while done < len(view):
            try:
                count = os.preadv(descriptor, [view[done:]], position + done)
            except OSError as error:
                raise CheckpointError(
                    f"reading tensor {entry.name!r} failed: {error.strerror}", where=str(entry.path)
                ) from error
            if count == 0:
                raise CheckpointError(
                    f"the file ended inside tensor {entry.name!r}",
                    where=str(entry.path),
                    mend="something changed the checkpoint while it was read; start again",
                )
            done += count

    def _descriptor(self, path: Path) -> int:
        with self._lock:
            descriptor = self._descriptors.get(path)
            if descriptor is None:
                try:
                    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError as error:
                    raise CheckpointError(
                        f"cannot be opened: {error.strerror}", where=str(path)
                    ) from error
                self._descriptors[path] = descriptor
            return descriptor
