"""A GPU's memory: how much may be used, what to say where it does not suffice, giving it back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from merge_core.errors import StepError
from merge_core.runtime.lazy_torch import torch

_SHORTAGE = re.compile(r"out of memory|ALLOC_FAILED", re.I)
"""In what CUDA's libraries and Triton say of it."""


def spare_memory(device: torch.device) -> int:
    """Bytes of a GPU that may hold inputs for a later pass: a quarter of what is free."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) // 4


def give_back() -> None:
    """Give memory that torch holds and nobody uses back to the device, for other processes."""
    torch.cuda.empty_cache()


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that a device has not enough memory."""
    return isinstance(error, RuntimeError) and bool(_SHORTAGE.search(str(error)))


@contextmanager
def explained_shortage(purpose: str) -> Iterator[None]:
    """Say what to do where a GPU's memory does not suffice to do something.

    Raises:
        StepError: it does not.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_shortage(error):
            raise
        raise StepError(
            f"the GPU has not enough free memory to {purpose}",
            mend="run the same command again with fewer threads, or on the CPU (device: cpu):"
            " finished tensors are kept",
        ) from error
