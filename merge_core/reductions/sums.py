"""Sums of blocks on any device, each in the one order of additions.

On the CPU a compiled loop adds (`cpu`), on a GPU a Triton kernel or torch (`gpu`): the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from merge_core.reductions.constants import CHUNK
from merge_core.runtime.lazy_torch import torch


class Sum:
    """A float64 sum over a whole tensor, added up step by step in order.

    step: elements of one step; blocks must start at multiples of it.
    """

    def __init__(self, step: int = CHUNK) -> None:
        self.value = 0.0
        self._step = step

    def add(self, values: torch.Tensor) -> None:
        """Add a block's values (float64), in the same order on every device."""
        for total in _sums_of_steps(values, self._step):
            self.value += total


def _sums_of_steps(values: torch.Tensor, step: int) -> Iterable[float]:
    if values.device.type != "cpu":
        from merge_core.reductions.gpu import sums_of_steps

        return sums_of_steps(values, step)
    # LLVM's loader takes a tenth of a second to import: only where something is summed.
    from merge_core.reductions.cpu import sum_in_lanes

    starts = range(0, values.numel(), step)
    return (float(sum_in_lanes(values[start : start + step].numpy())) for start in starts)


def divided(values: torch.Tensor, by: float) -> torch.Tensor:
    """values / by, rounded once on every device: given a number of the host's, a GPU multiplies
    by its inverse."""
    return values / torch.full((), by, dtype=values.dtype, device=values.device)


def add_up(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of equal-shaped tensors, in their order, as a new tensor."""
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total += tensor
    return total
