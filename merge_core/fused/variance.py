"""SCE: entries by their variance over the models, energies of what is selected, and the merge."""

from __future__ import annotations

import numpy as np

from merge_core.fused.compiling import Array, compiled
from merge_core.fused.formats import kept_if, magnitude_bits, narrow, widen, with_sign_of
from merge_core.fused.order_statistics import ALL, Cut, find_cuts
from merge_core.fused.stored import MOST_REMEMBERED, FusedKernel, StoredBlock, StoredTensor
from merge_core.fused.sums import norms_in_steps
from merge_core.methods.base import CHUNK
from merge_core.methods.sce import TINY, energy_shares


class SelectByVariance(FusedKernel):
    """See `methods.sce.Sce`; `topk` is the share of the varying entries that is kept."""

    drops = True

    def __init__(self, topk: float, models: int) -> None:
        self._topk = topk
        self._cut = ALL
        self._shares = (0.0,) * models
        self._remembered: dict[int, Array] = {}

    def prepare(self, tensor: StoredTensor) -> None:
        if self._topk < 1:
            varying = sum(_count_varying(block.base, block.models) for block in tensor.blocks())
            count = int(self._topk * varying)
            self._cut = find_cuts(tensor, [(_variance_patterns, count)])[0]
        totals = [np.zeros(2) for _ in self._shares]
        for block in tensor.blocks():
            mask = self._mask(block)
            if tensor.numel <= MOST_REMEMBERED:
                self._remembered[block.start] = np.packbits(mask)
            for model, total in zip(block.models, totals, strict=True):
                norms_in_steps(block.base, model, mask, True, block.start, CHUNK, total)
        energies = [float(after) / max(1, tensor.numel) for _, after in totals]
        self._shares = tuple(energy_shares(energies))

    def combine(self, block: StoredBlock, out: Array) -> None:
        mask = self._mask(block)
        _merge(block.base, block.models, mask, self._shares, out)

    def _mask(self, block: StoredBlock) -> Array:
        packed = self._remembered.get(block.start)
        if packed is not None:
            return np.unpackbits(packed, count=block.count)
        if self._cut == ALL:
            return np.ones(block.count, np.uint8)
        return chosen(_variance_patterns(block), self._cut, block.start)


def chosen(patterns: Array, cut: Cut, start: int) -> Array:
    """Which entries of a block are among those of a cut: uint8."""
    mask = np.empty(patterns.size, np.uint8)
    last = cut.last if cut.last is not None else start + patterns.size
    ties = min(patterns.size, max(0, last + 1 - start))
    _compare(patterns[:ties], np.int32(cut.threshold - 1), mask[:ties])
    _compare(patterns[ties:], np.int32(cut.threshold), mask[ties:])
    return mask


def _variance_patterns(block: StoredBlock) -> Array:
    """Magnitude patterns of a block's variances (int32)."""
    bits = np.empty(block.count, np.int32)
    _variance_bits(block.base, block.models, bits)
    return bits


@compiled
def _count_varying(base: Array, models: tuple[Array, ...]) -> int:
    """How many entries of the task vectors are not the same in all models."""
    varying = 0
    for i in range(base.size):
        origin = widen(base[i])
        first = widen(models[0][i]) - origin
        differs = False
        for k in range(1, len(models)):
            differs |= widen(models[k][i]) - origin != first
        varying += differs
    return varying


@compiled
def _variance_bits(base: Array, models: tuple[Array, ...], bits: Array) -> None:
    for i in range(bits.size):
        origin = widen(base[i])
        first = widen(models[0][i]) - origin
        total = 0.0
        for k in range(1, len(models)):
            total += (widen(models[k][i]) - origin) - first
        mean = total / len(models)
        variance = mean * mean
        for k in range(1, len(models)):
            offset = (widen(models[k][i]) - origin) - first - mean
            variance += offset * offset
        bits[i] = magnitude_bits(variance / len(models))


@compiled
def _compare(patterns: Array, below: np.int32, mask: Array) -> None:
    for i in range(patterns.size):
        mask[i] = patterns[i] > below


@compiled
def _merge(
    base: Array, models: tuple[Array, ...], mask: Array, shares: tuple[float, ...], out: Array
) -> None:
    for i in range(out.size):
        origin = widen(base[i])
        vote = 0.0
        for k in range(len(models)):
            vote += kept_if(mask[i] != 0, widen(models[k][i]) - origin)
        mixed = 0.0
        divisor = 0.0
        for k in range(len(models)):
            delta = kept_if(mask[i] != 0, widen(models[k][i]) - origin)
            agrees = with_sign_of(delta, vote) > 0.0
            mixed += kept_if(agrees, delta) * shares[k]
            divisor += kept_if(agrees, shares[k])
        out[i] = narrow(origin + mixed / (divisor if divisor > TINY else TINY), out)
