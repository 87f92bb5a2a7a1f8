"""Random numbers as a function of a key and an element's index.

No generator state: the mask of an element is the same whatever thread, block, shard or device
computes it, and whether the merge was resumed. The mixing function is SplitMix64's finaliser
(Steele, Lea, Flood 2014, Fast splittable pseudorandom number generators).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from merge_core.runtime.lazy_torch import torch

BITS = 53
"""Bits of each random number: as many as a float64 probability can tell apart."""

_CPU_TILE = 1 << 15
"""Integers that are mixed at a time on the CPU: they stay in its cache."""

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9
_MULTIPLIER_2 = 0x94D049BB133111EB


def random_keys(*parts: str) -> Callable[[str], int]:
    """64-bit keys of texts that begin with `parts`, as a function of the last one.

    A key is the first 8 bytes of sha256 over the lengths and contents of all of them.
    """
    begun = hashlib.sha256(b"".join(map(_measured, parts)))

    def key(last: str) -> int:
        digest = begun.copy()
        digest.update(_measured(last))
        return int.from_bytes(digest.digest()[:8], "little")

    return key


def random_integers(key: int, start: int, count: int, device: torch.device) -> torch.Tensor:
    """Uniform integers in [0, 2**53) for the elements `start : start + count`, int64."""
    bits = torch.arange(start + 1, start + 1 + count, dtype=torch.int64, device=device)
    tile = _CPU_TILE if device.type == "cpu" else max(1, count)
    shifted = torch.empty(min(tile, count), dtype=torch.int64, device=device)
    for part in torch.split(bits, tile):
        _mix(part, key, shifted[: part.numel()])
    return bits


def keep_mask(
    key: int, start: int, count: int, density: float, device: torch.device
) -> torch.Tensor:
    """Independent Bernoulli(density) draws for a run of elements, bool."""
    return random_integers(key, start, count, device) < int(density * (1 << BITS))


def _measured(part: str) -> bytes:
    """A text with its length before it."""
    data = part.encode()
    return len(data).to_bytes(8, "little") + data


def _mix(bits: torch.Tensor, key: int, shifted: torch.Tensor) -> None:
    """SplitMix64 of counters, in place. `shifted` is room for as many integers."""
    bits.mul_(_signed(_GOLDEN)).add_(_signed(key))
    bits.bitwise_xor_(_shift_right(bits, 30, shifted)).mul_(_signed(_MULTIPLIER_1))
    bits.bitwise_xor_(_shift_right(bits, 27, shifted)).mul_(_signed(_MULTIPLIER_2))
    bits.bitwise_xor_(_shift_right(bits, 31, shifted))
    bits.copy_(_shift_right(bits, 64 - BITS, shifted))


def _shift_right(values: torch.Tensor, by: int, out: torch.Tensor) -> torch.Tensor:
    """Logical shift of int64 bit patterns into `out` (torch shifts arithmetically)."""
    torch.bitwise_right_shift(values, by, out=out)
    return out.bitwise_and_((1 << (64 - by)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= (1 << 63) else value
