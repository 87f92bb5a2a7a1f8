"""DARE and DELLA: entries drawn at random, evenly or by their magnitude's rank in their row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from merge_core.fused.compiling import Array
from merge_core.fused.draws import draw_mask
from merge_core.fused.kernels import Joining, restoring_factor
from merge_core.fused.ranks import draw_by_rank, limit_of
from merge_core.fused.remembered import RememberedMasks
from merge_core.fused.stored import FusedKernel, StoredBlock, StoredTensor
from merge_core.fused.sums import norms_in_steps


@dataclass(frozen=True)
class Draw:
    """One model's draw: with probabilities of `density`, give or take up to `epsilon` by rank.

    No entry stays at density 0, and all do at 1.
    """

    density: float
    key: int
    epsilon: float = 0.0


class RandomDraws(FusedKernel):
    """Task vectors of which a random number leaves some entries, then joined.

    Args:
        factors: what each sparsified task vector is multiplied by, if not to restore its norm.
        restore: "l1" or "l2" to measure the factors that give back those norms.
        row: elements of a row. Blocks must be of whole rows if anything is drawn by rank.
        step: elements of one step of a sum; then a multiple of `row`.
    """

    drops = True

    def __init__(
        self,
        joining: Joining,
        draws: Sequence[Draw],
        factors: Sequence[float],
        restore: str | None,
        row: int,
        step: int,
    ) -> None:
        self._joining = joining
        self._draws = draws
        self._factors = tuple(factors)
        self._restore = restore
        self._row = row
        self._remembered: RememberedMasks | None = None
        self.step = step

    def prepare(self, tensor: StoredTensor) -> None:
        if self._restore is None:
            return
        squared = True if self._restore == "l2" else None
        totals = [np.zeros(2) for _ in self._draws]
        remembered = RememberedMasks(len(self._draws), tensor.numel)
        for block in tensor.blocks():
            masks = self._masks(block)
            remembered.put(block.start, masks)
            for model, mask, total in zip(block.models, masks, totals, strict=True):
                norms_in_steps(block.base, model, mask, squared, self.step, total)
        self._remembered = remembered
        self._factors = tuple(restoring_factor(self._restore, total) for total in totals)

    def combine(self, block: StoredBlock, out: Array) -> None:
        known = self._remembered.get(block.start, block.count) if self._remembered else None
        self._joining.run(block, known or self._masks(block), self._factors, out)

    def _masks(self, block: StoredBlock) -> tuple[Array, ...]:
        return tuple(
            self._mask(block, model, draw)
            for model, draw in zip(block.models, self._draws, strict=True)
        )

    def _mask(self, block: StoredBlock, model: Array, draw: Draw) -> Array:
        if draw.density in (0.0, 1.0):
            return np.full(block.count, int(draw.density), np.uint8)
        if draw.epsilon == 0.0 or self._row == 1:
            mask = np.empty(block.count, np.uint8)
            limit = limit_of(0, draw.density, 0.0)
            draw_mask(np.uint64(draw.key), np.uint64(limit), block.start, mask)
            return mask
        assert block.base is not None
        low, slope = draw.density - draw.epsilon, 2 * draw.epsilon / (self._row - 1)
        return draw_by_rank(block.base, model, self._row, low, slope, draw.key, block.start)
