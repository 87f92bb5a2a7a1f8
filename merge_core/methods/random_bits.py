"""Random numbers as a function of a key and an element's index.

No generator state: the mask of an element is the same whatever thread, block, shard or device
computes it, and whether the merge was resumed. The mixing function is SplitMix64's finaliser
(Steele, Lea, Flood 2014, Fast splittable pseudorandom number generators).
"""

from __future__ import annotations

import hashlib

import torch

BITS = 53
"""Bits of each random number: as many as a float64 probability can tell apart."""

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9
_MULTIPLIER_2 = 0x94D049BB133111EB


def random_key(*parts: str) -> int:
    """A 64-bit key from texts: the first 8 bytes of sha256 over their lengths and contents."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest()[:8], "little")


def random_integers(key: int, start: int, count: int, device: torch.device) -> torch.Tensor:
    """Uniform integers in [0, 2**53) for the elements `start : start + count`, int64."""
    bits = torch.arange(start + 1, start + 1 + count, dtype=torch.int64, device=device)
    bits *= _signed(_GOLDEN)
    bits += _signed(key)
    bits ^= _shift_right(bits, 30)
    bits *= _signed(_MULTIPLIER_1)
    bits ^= _shift_right(bits, 27)
    bits *= _signed(_MULTIPLIER_2)
    bits ^= _shift_right(bits, 31)
    return _shift_right(bits, 64 - BITS)


def keep_mask(
    key: int, start: int, count: int, density: float, device: torch.device
) -> torch.Tensor:
    """Independent Bernoulli(density) draws for a run of elements, bool."""
    return random_integers(key, start, count, device) < int(density * (1 << BITS))


def _shift_right(values: torch.Tensor, by: int) -> torch.Tensor:
    """Logical shift of int64 bit patterns (torch shifts arithmetically)."""
    return (values >> by) & ((1 << (64 - by)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= (1 << 63) else value
