"""DELLA: entries drawn with a probability that grows with their magnitude's rank in their row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from merge_core.fused.compiling import Array, compiled
from merge_core.fused.formats import magnitude_bits, widen
from merge_core.fused.kernels import Joining, restoring_factor
from merge_core.fused.masks import kept
from merge_core.fused.stored import FusedKernel, StoredBlock, StoredTensor
from merge_core.fused.sums import norms_in_steps
from merge_core.methods.random_bits import BITS

_REMEMBERED = 1 << 26
"""Elements of the largest tensor whose masks are kept from one pass to the next, as bits."""


@dataclass(frozen=True)
class Draw:
    """One model's draw: probabilities from `low` to `low + spread`. None stays at density 0, and
    all do at 1."""

    density: float
    low: float
    spread: float
    key: int


class RankDraws(FusedKernel):
    """Task vectors drawn by rank, then joined. Needs blocks of whole rows.

    Args:
        restore: "l1" or "l2" to measure the factors that give back those norms.
        step: elements of one step of a sum, a multiple of `row`.
    """

    drops = True

    def __init__(
        self, joining: Joining, draws: Sequence[Draw], restore: str | None, row: int, step: int
    ) -> None:
        self._joining = joining
        self._draws = draws
        self._restore = restore
        self._row = row
        self._factors = (1.0,) * len(draws)
        self._remembered: dict[int, list[Array]] = {}
        self.step = step

    def prepare(self, tensor: StoredTensor) -> None:
        if self._restore is None:
            return
        squared = True if self._restore == "l2" else None
        totals = [np.zeros(2) for _ in self._draws]
        for block in tensor.blocks():
            masks = self._masks(block)
            if tensor.numel <= _REMEMBERED:
                self._remembered[block.start] = [np.packbits(mask) for mask in masks]
            for model, mask, total in zip(block.models, masks, totals, strict=True):
                norms_in_steps(block.base, model, mask, squared, block.start, self.step, total)
        self._factors = tuple(
            1.0 if draw.density == 1.0 else restoring_factor(self._restore, total)
            for draw, total in zip(self._draws, totals, strict=True)
        )

    def combine(self, block: StoredBlock, out: Array) -> None:
        self._joining.run(block, self._masks(block), self._factors, out)

    def _masks(self, block: StoredBlock) -> tuple[Array, ...]:
        packed = self._remembered.get(block.start)
        if packed is not None:
            return tuple(np.unpackbits(bits, count=block.count) for bits in packed)
        return tuple(
            self._mask(block, model, draw)
            for model, draw in zip(block.models, self._draws, strict=True)
        )

    def _mask(self, block: StoredBlock, model: Array, draw: Draw) -> Array:
        if draw.density in (0.0, 1.0):
            return np.full(block.count, int(draw.density), np.uint8)
        ranks = np.zeros(block.count, np.int64)
        for start in range(0, block.count, self._row) if self._row > 1 else ():
            row = slice(start, start + self._row)
            _rank_row(block.base, model, row, ranks)
        mask = np.empty(block.count, np.uint8)
        slope = draw.spread / (self._row - 1) if self._row > 1 else 0.0
        low = draw.low if self._row > 1 else draw.density
        full = np.uint64(1) << np.uint64(BITS)
        _draw(ranks, slope, low, float(full), np.uint64(draw.key), block.start, mask)
        return mask


def _rank_row(base: Array | None, model: Array, row: slice, ranks: Array) -> None:
    """Ranks of a row's magnitudes, from 0 for the smallest; equal ones in their order."""
    assert base is not None
    keys = np.empty(model[row].size, np.uint64)
    if _keys(base[row], model[row], keys):
        keys.sort()
        _spread(keys, ranks[row])
        return
    # Some differences have more bits than a float32: compare them in full.
    exact = np.empty(keys.size)
    _magnitudes(base[row], model[row], exact)
    ranks[row][np.argsort(exact, kind="stable")] = np.arange(keys.size)


@compiled
def _keys(base: Array, model: Array, keys: Array) -> bool:
    """Magnitude patterns, each with its index below it; whether the patterns are exact."""
    inexact = 0
    for i in range(keys.size):
        delta = widen(model[i]) - widen(base[i])
        inexact += np.float64(np.float32(delta)) != delta
        keys[i] = (np.uint64(magnitude_bits(delta)) << np.uint64(32)) | np.uint64(i)
    return inexact == 0


@compiled
def _magnitudes(base: Array, model: Array, magnitudes: Array) -> None:
    for i in range(magnitudes.size):
        magnitudes[i] = abs(widen(model[i]) - widen(base[i]))


@compiled
def _spread(keys: Array, ranks: Array) -> None:
    for rank in range(keys.size):
        ranks[np.int64(keys[rank] & np.uint64(0xFFFFFFFF))] = rank


@compiled
def _draw(
    ranks: Array, slope: float, low: float, full: float, key: np.uint64, start: int, mask: Array
) -> None:
    for i in range(mask.size):
        limit = np.uint64(np.int64((np.float64(ranks[i]) * slope + low) * full))
        mask[i] = kept((key, limit), 1.0, start, i) > 0.0
