"""The one rounding of a merge: float64 to the stored dtype, to nearest, ties to even.

torch converts float64 to 16-bit floats through float32, which rounds twice: a value just above the
middle of two neighbours becomes the middle, and then the even neighbour, which may be the lower.
"""

from __future__ import annotations

from functools import cache

from merge_core.runtime.lazy_torch import torch


def round_once(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`exact` (float64) in another dtype, every value rounded once."""
    middles = _middles().get(dtype)
    if middles is None:
        return exact.to(dtype)
    single = exact.to(torch.float32)
    mask, pattern = middles
    suspects = ((single.view(torch.int32) & mask) == pattern).nonzero()
    if suspects.numel():
        _move_off(single, exact, suspects.unbind(dim=1))
    return single.to(dtype)


@cache
def _middles() -> dict[torch.dtype, tuple[int, int]]:
    """Mask and pattern of float32 values that may be a middle; for float16 some others too, since
    the middles of its subnormals have any number of zeros at the end."""
    return {torch.bfloat16: (0xFFFF, 0x8000), torch.float16: (0x0FFF, 0)}


def _move_off(single: torch.Tensor, exact: torch.Tensor, where: tuple[torch.Tensor, ...]) -> None:
    """Move rounded values by one float32 step towards the exact ones they were rounded from."""
    rounded = single[where]
    error = exact[where] - rounded.to(torch.float64)
    towards = torch.where(error > 0, torch.inf, -torch.inf).to(torch.float32)
    single[where] = torch.where(error == 0, rounded, torch.nextafter(rounded, towards))
