"""The numbers that fix the order of additions: the same on every device."""

from __future__ import annotations

CHUNK = 1 << 16
"""Elements in one step of a reduction; block sizes are multiples of it."""
LANES = 256
"""Interleaved partial sums of one step."""
TINY_SUM = 1e-8
"""A sum of weights below this is 0: 0.1 + 0.2 - 0.3 is not, in floating point."""
