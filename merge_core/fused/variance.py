"""SCE: entries by their variance over the models, energies of what is selected, and the merge."""

from __future__ import annotations

import numpy as np

from merge_core.fused.compiling import Array, compiled
from merge_core.fused.formats import kept_if, magnitude_bits, narrow, widen, with_sign_of
from merge_core.fused.order_statistics import ALL, Cut, find_share
from merge_core.fused.remembered import RememberedMasks
from merge_core.fused.stored import FusedKernel, StoredBlock, StoredTensor
from merge_core.fused.sums import squares_in_steps
from merge_core.fused.windows import count_above
from merge_core.methods.base import CHUNK
from merge_core.methods.sce import TINY, energy_shares

_TINY_VARIANCE = -1


class SelectByVariance(FusedKernel):
    """See `methods.sce.Sce`; `topk` is the share of the varying entries that is kept."""

    drops = True

    def __init__(self, topk: float, models: int) -> None:
        self._topk = topk
        self._cut = ALL
        self._shares = (0.0,) * models
        self._remembered: RememberedMasks | None = None

    def prepare(self, tensor: StoredTensor) -> None:
        if self._topk < 1:
            self._cut = find_share(tensor, _variances, self._topk)
        remembered = RememberedMasks(1, tensor.numel)
        totals = [0.0] * len(self._shares)
        for block in tensor.blocks():
            mask = self._mask(block)
            remembered.put(block.start, [mask])
            for k, model in enumerate(block.models):
                totals[k] = squares_in_steps(block.base, model, mask, CHUNK, totals[k])
        self._remembered = remembered
        self._shares = tuple(energy_shares([total / tensor.numel for total in totals]))

    def combine(self, block: StoredBlock, out: Array) -> None:
        known = self._remembered.get(block.start, block.count) if self._remembered else None
        mask = known[0] if known else self._mask(block)
        _merge(block.base, block.models, mask, self._shares, out)

    def _mask(self, block: StoredBlock) -> Array:
        if self._cut == ALL:
            return np.ones(block.count, np.uint8)
        bits, _ = _variances(block)
        return chosen(bits, self._cut, block.start)


def chosen(patterns: Array, cut: Cut, start: int) -> Array:
    """Which entries of a block are among those of a cut: uint8."""
    mask = np.empty(patterns.size, np.uint8)
    last = cut.last if cut.last is not None else start + patterns.size
    ties = min(patterns.size, max(0, last + 1 - start))
    _compare(patterns[:ties], np.int32(cut.threshold - 1), mask[:ties])
    _compare(patterns[ties:], np.int32(cut.threshold), mask[ties:])
    return mask


def _variances(block: StoredBlock) -> tuple[Array, int]:
    """Magnitude patterns of a block's variances (int32), and how many of these are not 0."""
    bits = np.empty(block.count, np.int32)
    _write_variances(block.base, block.models, bits)
    varying = int(count_above(bits, np.int32(0)))
    tiny = block.count - int(count_above(bits, np.int32(_TINY_VARIANCE)))
    if tiny:
        np.maximum(bits, 0, out=bits)
    return bits, varying + tiny


@compiled
def _write_variances(base: Array, models: tuple[Array, ...], bits: Array) -> None:
    """Write patterns of variances; `_TINY_VARIANCE` for what is 0 only as a float32."""
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
        variance = variance / len(models)
        pattern = magnitude_bits(variance)
        tiny = (pattern == 0) & (variance != 0.0)
        bits[i] = np.int32(_TINY_VARIANCE) if tiny else pattern


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
