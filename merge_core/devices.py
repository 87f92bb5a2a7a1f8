"""Which device computes."""

from __future__ import annotations

import torch

from merge_core.errors import RecipeError


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
