"""Copies to and from a GPU that overlap with reading, computing and writing.

Each worker has a queue of its own on the device (a CUDA stream) and moves blocks through
page-locked memory. While the device copies or computes one worker's block, another worker reads the
next from its file, or writes one that is done: the workers' blocks are the buffers, two at least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from merge_core.runtime.lazy_torch import torch

LEAST_WORKERS = 2
"""With fewer nothing overlaps."""
PIECE = 1 << 22
"""Most elements that pass through page-locked memory at once: a whole matrix would lock gigabytes,
which torch keeps."""


@contextmanager
def own_queue(device: torch.device) -> Iterator[None]:
    """While it lasts, what this thread asks of a GPU waits for no other thread's work."""
    if device.type == "cpu":
        yield
        return
    with torch.cuda.device(device):
        queue = torch.cuda.Stream(device)
        with torch.cuda.stream(queue):
            yield


def fill(values: torch.Tensor, read: Callable[[int, memoryview], None]) -> None:
    """Fill a device's values (flat, contiguous); the last copies may still be under way.

    Args:
        read: fills a view of bytes with the values from an index on.
    """
    for first in range(0, values.numel(), PIECE):
        part = values[first : first + PIECE]
        room = _host_memory(part)
        read(first, room.view(torch.uint8).numpy().data)
        part.copy_(room, non_blocking=True)


def to_host(values: torch.Tensor) -> torch.Tensor:
    """Values of any device on the CPU, contiguous, when the copy is over."""
    if values.device.type == "cpu":
        return values.contiguous()
    if values.numel() > PIECE:
        return values.cpu().contiguous()
    room = _host_memory(values).view(values.shape)
    room.copy_(values, non_blocking=True)
    wait_for(values.device)
    return room


def wait_for(device: torch.device) -> None:
    """Wait until a device has done all that this thread has asked of it."""
    if device.type != "cpu":
        torch.cuda.current_stream(device).synchronize()


def load_decompositions(device: torch.device) -> None:
    """Let torch load what decomposes matrices on a GPU.

    Its loader is not for several threads that need it for the first time at once (pytorch 90613).
    """
    torch.linalg.inv(torch.eye(1, dtype=torch.float64, device=device))


def _host_memory(values: torch.Tensor) -> torch.Tensor:
    """Room on the host for values on their way to or from their device, not initialised.

    For a GPU it is page-locked, and given out again only when the copies are over that it took
    part in: torch's allocator waits for their streams, whenever the tensor is let go. Where no
    memory can be locked it is ordinary memory, whose copies wait for the host.
    """
    if values.device.type != "cpu":
        try:
            return torch.empty(values.numel(), dtype=values.dtype, pin_memory=True)
        except RuntimeError:
            pass
    return torch.empty(values.numel(), dtype=values.dtype)
