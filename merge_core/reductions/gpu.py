"""Sums on a GPU in the order in which the CPU adds (`merge_core.reductions.cpu`): the same bits.

A step of a sum is added up in 256 interleaved lanes, and the lanes in their order. The lanes of all
steps of a block are added up at once: by a Triton kernel, or by plain additions of torch's. No
reduction of the device's own has a say in the order.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from merge_core.reductions.constants import LANES
from merge_core.runtime.gpu_self_check import is_trusted, same_bits
from merge_core.runtime.lazy_torch import torch


def sums_of_steps(values: torch.Tensor, step: int) -> list[float]:
    """The sums of runs of `step` values (flat, float64), the last of which may be shorter."""
    whole = values.numel() // step
    head, tail = values[: whole * step], values[whole * step :]
    lanes = [
        _lanes(part.view(-1, size)) for part, size in ((head, step), (tail, tail.numel())) if size
    ]
    lanes = [each for each in lanes if each.numel()]
    if not lanes:
        return []
    # numpy's running sum is sequential by its definition, its plain sum is not.
    return [float(total) for total in np.cumsum(torch.cat(lanes).cpu().numpy(), axis=1)[:, -1]]


def lanes_by_torch(steps: torch.Tensor) -> torch.Tensor:
    """The lanes of some steps of one length: (steps, length) to (steps, 256)."""
    lanes = steps.new_zeros(steps.shape[0], LANES)
    for first in range(0, steps.shape[1], LANES):
        part = steps[:, first : first + LANES]
        lanes[:, : part.shape[1]] += part
    return lanes


def lanes_by_kernel(steps: torch.Tensor) -> torch.Tensor:
    """The same, in one launch."""
    from merge_core.reductions import (
        triton_lanes as kernels,  # Triton comes with a torch for GPUs, and is no dependency
    )

    lanes = steps.new_empty(steps.shape[0], LANES)
    if steps.numel():
        launch: Any = kernels.add_lanes[(steps.shape[0],)]
        kernels.launched(launch, steps.contiguous(), lanes, steps.shape[1], width=LANES)
    return lanes


def lanes_agree(device: torch.device) -> bool:
    """Whether both give the same bits on a device."""
    # Triton compiles for lengths of 1 and multiples of 16, and for aligned addresses.
    for shape, offset in product(((3, 1 << 16), (5, 517), (2, 16), (4, 1)), (0, 1)):
        values = torch.randn(shape[0] * shape[1] + offset, dtype=torch.float64, device=device)
        values[::2] *= 1e-9
        steps = values[offset:].view(shape)
        if not same_bits(lanes_by_kernel(steps), lanes_by_torch(steps)):
            return False
    return True


def _lanes(steps: torch.Tensor) -> torch.Tensor:
    device = steps.device
    if device.type == "cuda" and is_trusted(device, ("lanes",), lambda: lanes_agree(device)):
        return lanes_by_kernel(steps)
    return lanes_by_torch(steps)
