"""How to compute: the device, the workers, the portions. None of the last two changes a byte."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Compute:
    """How a process computes.

    Attributes:
        device: "auto" (a GPU when there is one), "cpu", "cuda" or "cuda:1".
        threads: workers; by default one for each available core, at most 8, on a GPU at least 2.
        block_elements: elements of a block, rounded up to a multiple of `CHUNK`.
    """

    device: str = "auto"
    threads: int | None = None
    block_elements: int | None = None
