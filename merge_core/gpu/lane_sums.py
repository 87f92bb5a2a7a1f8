"""Sums on a GPU in the order in which the CPU adds (`merge_core.fused.sums`): the same bits.

A step of a sum is added up in 256 interleaved lanes, and the lanes in their order. The lanes of all
steps of a block are added up at once, by plain additions, so no reduction of the device's own has a
say in the order.
"""

from __future__ import annotations

import numpy as np

from merge_core.lazy_torch import torch

LANES = 256


def sums_of_steps(values: torch.Tensor, step: int) -> list[float]:
    """The sums of runs of `step` values (flat, float64), the last of which may be shorter."""
    whole = values.numel() // step
    head, tail = values[: whole * step], values[whole * step :]
    lanes = [
        _lanes(part.view(-1, size))
        for part, size in ((head, step), (tail, tail.numel()))
        if part.numel()
    ]
    if not lanes:
        return []
    # numpy's running sum is sequential by its definition, its plain sum is not.
    return [float(total) for total in np.cumsum(torch.cat(lanes).cpu().numpy(), axis=1)[:, -1]]


def _lanes(steps: torch.Tensor) -> torch.Tensor:
    """The lanes of some steps of one length: (steps, length) to (steps, 256)."""
    lanes = steps.new_zeros(steps.shape[0], LANES)
    for first in range(0, steps.shape[1], LANES):
        part = steps[:, first : first + LANES]
        lanes[:, : part.shape[1]] += part
    return lanes
