"""Which device computes."""

from __future__ import annotations

import ctypes
from pathlib import Path

from merge_core.errors import RecipeError
from merge_core.runtime.lazy_torch import torch


def is_cpu(name: str) -> bool:
    """Whether a device of this name is the CPU; torch is loaded only where there may be a GPU.

    Raises:
        RecipeError: as for `compute_device`.
    """
    return (
        name == "cpu"
        or (name == "auto" and not _may_have_gpu())
        or compute_device(name).type == "cpu"
    )


def compute_device(name: str) -> torch.device:
    """`auto` (the first GPU when there is one, else the CPU), `cpu`, `cuda` or `cuda:1`.

    Raises:
        RecipeError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise RecipeError(f"'{name}' is no device; use auto, cpu, cuda or cuda:N", where="device")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RecipeError(
            f"there is no device {name} here ({torch.cuda.device_count()} GPUs)",
            where="device",
            mend="use auto or cpu",
        )
    return device


def _may_have_gpu() -> bool:
    """Whether a driver of NVIDIA or AMD is installed; only torch knows whether it can use it."""
    if Path("/dev/kfd").exists():
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
