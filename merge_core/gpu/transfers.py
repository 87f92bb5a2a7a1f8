"""Copies to and from a GPU that overlap with reading, computing and writing.

Each worker has a queue of its own on the device (a CUDA stream) and moves blocks through
page-locked memory. While the device copies or computes one worker's block, another worker reads the
next from its file, or writes one that is done: the workers' blocks are the buffers, two at least.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from merge_core.errors import StepError
from merge_core.lazy_torch import torch

LEAST_WORKERS = 2
"""With fewer nothing overlaps."""


@contextmanager
def own_queue(device: torch.device) -> Iterator[None]:
    """While it lasts, what this thread asks of a GPU waits for no other thread's work."""
    if device.type == "cpu":
        yield
        return
    with torch.cuda.device(device):
        queue = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(queue):
            yield


def host_memory(count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Room on the host for values on their way to or from a device, not initialised.

    For a GPU it is page-locked, and given out again only when the copies are over that it took
    part in: torch's allocator waits for their streams, whenever the tensor is let go. Where no
    memory can be locked it is ordinary memory, whose copies wait for the host.
    """
    if device.type != "cpu":
        try:
            return torch.empty(count, dtype=dtype, pin_memory=True)
        except RuntimeError:
            pass
    return torch.empty(count, dtype=dtype)


def to_host(values: torch.Tensor) -> torch.Tensor:
    """Values of any device on the CPU, contiguous, when the copy is over."""
    if values.device.type == "cpu":
        return values.contiguous()
    room = host_memory(values.numel(), values.dtype, values.device).view(values.shape)
    room.copy_(values, non_blocking=True)
    wait_for(values.device)
    return room


@contextmanager
def explained_shortage(name: str) -> Iterator[None]:
    """Say what to do where a GPU's memory does not suffice for a tensor.

    Raises:
        StepError: it does not.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise StepError(
            f"the GPU has not enough free memory to compute tensor {name}",
            mend="run the same command again with fewer threads, or on the CPU (device: cpu):"
            " finished tensors are kept",
        ) from error


def spare_memory(device: torch.device) -> int:
    """Bytes of a GPU that may hold inputs for a later pass: half of what is free."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) // 2


def wait_for(device: torch.device) -> None:
    """Wait until a device has done all that this thread has asked of it."""
    if device.type != "cpu":
        torch.cuda.current_stream(device).synchronize()
