"""DELLA: entries drawn with a probability that grows with their magnitude's rank in their row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from merge_core.fused.compiling import Array, compiled
from merge_core.fused.formats import magnitude_bits, widen
from merge_core.fused.kernels import Joining, restoring_factor
from merge_core.fused.masks import kept
from merge_core.fused.stored import MOST_REMEMBERED, FusedKernel, StoredBlock, StoredTensor
from merge_core.fused.sums import norms_in_steps
from merge_core.methods.random_bits import BITS

_OCTAVES = 8
"""Powers of two below a row's largest magnitude that are sorted into bins of their own."""
_PATIENCE = 32
"""Moves for each entry of a row after which sorting it by insertion is given up."""
_UNRANKED = -1


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
            if tensor.numel <= MOST_REMEMBERED:
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
        ranks = np.zeros(block.count, np.int32)
        if self._row > 1:
            _rank(block.base, model, self._row, ranks)
        mask = np.empty(block.count, np.uint8)
        slope = draw.spread / (self._row - 1) if self._row > 1 else 0.0
        low = draw.low if self._row > 1 else draw.density
        full = np.uint64(1) << np.uint64(BITS)
        _draw(ranks, slope, low, float(full), np.uint64(draw.key), block.start, mask)
        return mask


def _rank(base: Array | None, model: Array, row: int, ranks: Array) -> None:
    """Ranks of the magnitudes within each row, from 0 for the smallest; equal ones in order."""
    assert base is not None
    bits = min(23, max(3, row.bit_length() - _OCTAVES.bit_length()))
    if _rank_rows(base, model, row, bits, ranks):
        return
    for start in range(0, model.size, row):
        if ranks[start] == _UNRANKED:
            those = slice(start, start + row)
            exact = np.empty(row)
            _magnitudes(base[those], model[those], exact)
            ranks[those][np.argsort(exact, kind="stable")] = np.arange(row)


@compiled
def _rank_rows(base: Array, model: Array, row: int, bits: int, ranks: Array) -> bool:
    """Rank every row, in bins of `bits` bits of the mantissa; whether that did for all of them."""
    counts = np.empty(_OCTAVES << bits, np.int32)
    patterns, sorted_patterns = np.empty(row, np.int32), np.empty(row, np.int32)
    order = np.empty(row, np.int32)
    all_ranked = True
    for start in range(0, model.size, row):
        those = slice(start, start + row)
        ranked = _are_exact(base[those], model[those], patterns) and _rank_row(
            patterns, 23 - bits, counts, sorted_patterns, order, ranks[those]
        )
        if not ranked:
            ranks[start] = _UNRANKED
            all_ranked = False
    return all_ranked


@compiled
def _are_exact(base: Array, model: Array, patterns: Array) -> bool:
    """Write magnitude patterns; whether they are the magnitudes, rather than close to them."""
    inexact = 0
    for i in range(patterns.size):
        delta = widen(model[i]) - widen(base[i])
        inexact += np.float64(np.float32(delta)) != delta
        patterns[i] = magnitude_bits(delta)
    return inexact == 0


@compiled
def _rank_row(
    patterns: Array,
    shift: int,
    counts: Array,
    sorted_patterns: Array,
    order: Array,
    ranks: Array,
) -> bool:
    """Sort by counting into bins, then by insertion within them; False when that takes too long.

    The bins span the octaves below the largest magnitude; the lowest takes what is smaller still.
    """
    low = np.int32(patterns.max() - (np.int64(counts.size) << shift) + 1)
    counts[:] = 0
    for i in range(patterns.size):
        counts[max(patterns[i] - low, 0) >> shift] += 1
    total = np.int32(0)
    for number in range(counts.size):
        count = counts[number]
        counts[number] = total
        total += count
    for i in range(patterns.size):
        number = max(patterns[i] - low, 0) >> shift
        place = counts[number]
        counts[number] = place + 1
        order[place] = i
        sorted_patterns[place] = patterns[i]
    patience = _PATIENCE * patterns.size
    for place in range(1, patterns.size):
        pattern, i = sorted_patterns[place], order[place]
        hole = place
        while hole > 0 and sorted_patterns[hole - 1] > pattern:
            sorted_patterns[hole], order[hole] = sorted_patterns[hole - 1], order[hole - 1]
            hole -= 1
        sorted_patterns[hole], order[hole] = pattern, i
        patience -= place - hole
        if patience < 0:
            return False
    for place in range(patterns.size):
        ranks[order[place]] = place
    return True


@compiled
def _magnitudes(base: Array, model: Array, magnitudes: Array) -> None:
    for i in range(magnitudes.size):
        magnitudes[i] = abs(widen(model[i]) - widen(base[i]))


@compiled
def _draw(
    ranks: Array, slope: float, low: float, full: float, key: np.uint64, start: int, mask: Array
) -> None:
    for i in range(mask.size):
        limit = np.uint64(np.int64((np.float64(ranks[i]) * slope + low) * full))
        mask[i] = kept((key, limit), 1.0, start, i) > 0.0
