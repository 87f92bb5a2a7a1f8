"""SCE: entries by their variance over the models, energies of what is selected, and the merge."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from merge_core.jit.calling_convention import Array
from merge_core.jit.formats import (
    kept_if,
    magnitude_bits,
    narrow,
    power_below,
    widen,
    with_sign_of,
)
from merge_core.jit.kernel import compiled
from merge_core.kernels.cpu.mask_bits import KeptMasks
from merge_core.kernels.cpu.program import Step, calling
from merge_core.kernels.cpu.stored_tensor import FusedKernel, StoredBlock, StoredTensor, unusual
from merge_core.kernels.cpu.thresholds import (
    ALL,
    INFINITE,
    Cut,
    Window,
    count_in_windows,
    find_share,
)
from merge_core.kernels.cpu.windows import count_above
from merge_core.methods.parts.unordered import FEW, grid_factors, order_of
from merge_core.methods.sce import TINY, energy_shares
from merge_core.reductions.constants import CHUNK
from merge_core.reductions.cpu import squares_in_steps

_TINY_VARIANCE = -1
_NEVER = (1 << 62) - 1
"""An index that no entry has."""


class SelectByVariance(FusedKernel):
    """See `methods.sce.Sce`; `topk` is the share of the varying entries that is kept."""

    drops = True

    def __init__(self, topk: float, models: int) -> None:
        self._topk = topk
        self._cut = ALL
        self._shares = (0.0,) * models
        self._variances = Variances()
        self._kept_masks: KeptMasks | None = None

    def prepare(self, tensor: StoredTensor) -> None:
        if self._topk < 1:
            self._cut = find_share(tensor, self._variances, self._variances.varying, self._topk)
            # One model alone varies from nothing, whatever it holds.
            self.drops = len(self._shares) == 1
        kept_masks = KeptMasks(1, tensor.numel, tensor.block)
        totals = np.zeros(len(self._shares))

        def steps(block: StoredBlock) -> Iterator[Step]:
            mask = np.empty(block.count, np.uint8)
            yield from self._choice(block, mask)
            yield from kept_masks.put(block.strided_start, [mask])
            for k, model in enumerate(block.models):
                yield calling(squares_in_steps, block.base, model, mask, CHUNK, totals[k : k + 1])

        for _ in tensor.walk(steps):
            pass
        self._kept_masks = kept_masks
        self._shares = tuple(energy_shares((totals / tensor.numel).tolist()))

    def steps(self, block: StoredBlock, out: Array) -> Iterator[Step]:
        mask = np.empty(block.count, np.uint8)
        known = self._kept_masks.get(block.strided_start, [mask]) if self._kept_masks else None
        yield from known or self._choice(block, mask)
        order = order_of(self._shares)
        models = tuple([block.models[place] for place in order])
        shares = tuple([self._shares[place] for place in order])
        yield calling(_merge, block.base, models, mask, shares, _grids(models), out)

    def _choice(self, block: StoredBlock, mask: Array) -> Iterable[Step]:
        """What writes which entries of a block stay."""
        if self._cut == ALL:
            mask[:] = 1
            return []
        bits = np.empty(block.count, np.int32)
        return [*self._variances.writing(block, bits), _within(self._cut, block, bits, mask)]


def _grids(models: Sequence[Array]) -> tuple[float, float, float] | None:
    """See `methods.parts.unordered`; None for models whose sums have no order."""
    return grid_factors(len(models)) if len(models) > FEW else None


class Variances:
    """Magnitude patterns of variances over the models. Raises Unusual where they are not finite."""

    def __init__(self) -> None:
        self.varying = np.zeros(1, np.int64)
        """How many of all that were written are not 0."""

    def writing(self, block: StoredBlock, bits: Array) -> Sequence[Step]:
        """What writes a block's patterns."""
        return [
            calling(_write_variances, block.base, block.models, _grids(block.models), bits),
            calling(_count_varying, bits, self.varying, on_failure=unusual),
        ]

    def counting(self, block: StoredBlock, windows: tuple[Window, ...]) -> Sequence[Step]:
        """What counts them in some windows."""
        bits = np.empty(block.count, np.int32)
        return [*self.writing(block, bits), calling(count_in_windows, bits, windows)]


def _within(cut: Cut, block: StoredBlock, patterns: Array, mask: Array) -> Step:
    """What writes which entries of a block are among those of a cut."""
    last = _NEVER if cut.last is None else cut.last
    return calling(_choose, patterns, np.int32(cut.threshold), last, block.strided_start, mask)


@compiled
def _write_variances(
    base: Array, models: tuple[Array, ...], grids: tuple[float, float, float] | None, bits: Array
) -> None:
    """Write patterns of variances; `_TINY_VARIANCE` for what is 0 only as a float32."""
    for i in range(bits.size):
        origin = widen(base[i])
        lowest = widen(models[0][i]) - origin
        highest = lowest
        for k in range(1, len(models)):
            delta = widen(models[k][i]) - origin
            lowest = delta if delta < lowest else lowest
            highest = delta if delta > highest else highest
        total = 0.0
        rest = 0.0
        if grids is not None:
            coarse = power_below(highest - lowest) * grids[0]
            fine = coarse * grids[1]
            for k in range(len(models)):
                offset = (widen(models[k][i]) - origin) - lowest
                part = (offset + coarse) - coarse
                total += part
                rest += ((offset - part) + fine) - fine
        else:
            for k in range(len(models)):
                total += (widen(models[k][i]) - origin) - lowest
        mean = (total + rest) / len(models)
        variance = 0.0
        rest = 0.0
        if grids is not None:
            largest = 0.0
            for k in range(len(models)):
                offset = (widen(models[k][i]) - origin) - lowest - mean
                square = offset * offset
                largest = square if square > largest else largest
            coarse = power_below(largest) * grids[0]
            fine = coarse * grids[1]
            for k in range(len(models)):
                offset = (widen(models[k][i]) - origin) - lowest - mean
                square = offset * offset
                part = (square + coarse) - coarse
                variance += part
                rest += ((square - part) + fine) - fine
        else:
            for k in range(len(models)):
                offset = (widen(models[k][i]) - origin) - lowest - mean
                variance += offset * offset
        variance = (variance + rest) / len(models)
        pattern = magnitude_bits(variance)
        tiny = (pattern == 0) & (variance != 0.0)
        bits[i] = np.int32(_TINY_VARIANCE) if tiny else pattern


@compiled
def _count_varying(bits: Array, varying: Array) -> Any:
    """Count in `varying` (int64, 1) what is not 0, make what is tiny 0; whether all are finite."""
    tiny = bits.size - count_above(bits, np.int32(_TINY_VARIANCE))
    varying[0] += count_above(bits, np.int32(0)) + tiny
    if tiny > 0:
        for i in range(bits.size):
            bits[i] = max(bits[i], np.int32(0))
    return count_above(bits, np.int32(INFINITE - 1)) == 0


@compiled
def _choose(patterns: Array, threshold: np.int32, last: int, start: int, mask: Array) -> None:
    """Write which patterns exceed the threshold, or equal it at an index up to `last`."""
    ties = min(patterns.size, max(0, last + 1 - start))
    _compare(patterns[:ties], np.int32(threshold - 1), mask[:ties])
    _compare(patterns[ties:], threshold, mask[ties:])


@compiled
def _compare(patterns: Array, below: np.int32, mask: Array) -> None:
    for i in range(patterns.size):
        mask[i] = patterns[i] > below


@compiled
def _merge(
    base: Array,
    models: tuple[Array, ...],
    mask: Array,
    shares: tuple[float, ...],
    grids: tuple[float, float, float] | None,
    out: Array,
) -> None:
    for i in range(out.size):
        origin = widen(base[i])
        vote = 0.0
        rest = 0.0
        if grids is not None:
            largest = 0.0
            for k in range(len(models)):
                size = abs(widen(models[k][i]) - origin)
                largest = size if size > largest else largest
            power = power_below(largest)
            coarse = power * grids[0]
            fine = coarse * grids[1]
            for k in range(len(models)):
                delta = widen(models[k][i]) - origin
                part = (delta + coarse) - coarse
                vote += part
                rest += ((delta - part) + fine) - fine
            vote = (vote + rest) + power * grids[2]
        else:
            for k in range(len(models)):
                vote += widen(models[k][i]) - origin
        mixed = 0.0
        rest = 0.0
        divisor = 0.0
        coarse = 0.0
        fine = 0.0
        if grids is not None:
            largest = 0.0
            for k in range(len(models)):
                delta = widen(models[k][i]) - origin
                agrees = (with_sign_of(delta, vote) > 0.0) & (mask[i] != 0)
                size = abs(kept_if(agrees, delta) * shares[k])
                largest = size if size > largest else largest
            coarse = power_below(largest) * grids[0]
            fine = coarse * grids[1]
        for k in range(len(models)):
            delta = widen(models[k][i]) - origin
            # An entry that goes has a vote, but nobody agrees with it.
            agrees = (with_sign_of(delta, vote) > 0.0) & (mask[i] != 0)
            share = kept_if(agrees, delta) * shares[k]
            if grids is not None:
                part = (share + coarse) - coarse
                mixed += part
                rest += ((share - part) + fine) - fine
            else:
                mixed += share
            divisor += kept_if(agrees, shares[k])
        mixed += rest
        out[i] = narrow(origin + mixed / (divisor if divisor > TINY else TINY), out)
