"""DARE and DELLA: entries drawn at random, evenly or by their magnitude's rank in their row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from merge_core.jit.calling_convention import Array
from merge_core.kernels.cpu.families import Joining, restoring_factor
from merge_core.kernels.cpu.mask_bits import KeptMasks
from merge_core.kernels.cpu.program import Step, calling
from merge_core.kernels.cpu.random_numbers import draw_mask
from merge_core.kernels.cpu.rank_drop import drawing_by_rank, limit_of
from merge_core.kernels.cpu.stored_tensor import FusedKernel, StoredBlock, StoredTensor, Unusual
from merge_core.reductions.cpu import norms_in_steps


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
        self._kept_masks: KeptMasks | None = None
        self.step = step

    def prepare(self, tensor: StoredTensor) -> None:
        if self._restore is None:
            return
        squared = True if self._restore == "l2" else None
        totals = [np.zeros(2) for _ in self._draws]
        kept_masks = KeptMasks(len(self._draws), tensor.numel, tensor.block)

        def steps(block: StoredBlock) -> Iterator[Step]:
            masks = self._room(block)
            yield from self._drawing(block, masks)
            yield from kept_masks.put(block.strided_start, masks)
            for model, mask, total in zip(block.models, masks, totals, strict=True):
                yield calling(norms_in_steps, block.base, model, mask, squared, self.step, total)

        for _ in tensor.walk(steps):
            pass
        if not np.isfinite(totals).all():
            raise Unusual
        self.drops = False
        self._kept_masks = kept_masks
        self._factors = tuple(restoring_factor(self._restore, total) for total in totals)

    def steps(self, block: StoredBlock, out: Array) -> Iterator[Step]:
        masks = self._room(block)
        known = self._kept_masks.get(block.strided_start, masks) if self._kept_masks else None
        yield from known or self._drawing(block, masks)
        yield self._joining.step(block, masks, self._factors, out)

    def _room(self, block: StoredBlock) -> tuple[Array, ...]:
        return tuple(np.empty(block.count, np.uint8) for _ in self._draws)

    def _drawing(self, block: StoredBlock, masks: Sequence[Array]) -> Iterator[Step]:
        """What draws the masks of a block."""
        for model, mask, draw in zip(block.models, masks, self._draws, strict=True):
            start = block.strided_start
            if draw.density in (0.0, 1.0):
                mask[:] = int(draw.density)
            elif draw.epsilon == 0.0 or self._row == 1:
                limit = limit_of(0, draw.density, 0.0)
                yield calling(draw_mask, np.uint64(draw.key), np.uint64(limit), start, mask)
            else:
                assert block.base is not None
                low, slope = draw.density - draw.epsilon, 2 * draw.epsilon / (self._row - 1)
                yield drawing_by_rank(
                    block.base, model, self._row, low, slope, draw.key, start, mask
                )
