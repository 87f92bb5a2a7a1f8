"""The fused kernels of whole families of methods, as the engine drives them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, combinations_with_replacement
from typing import Any

import numpy as np

from merge_core.jit.calling_convention import Array
from merge_core.jit.formats import magnitude_bits, widen
from merge_core.jit.kernel import compiled
from merge_core.jit.stack_arrays import array_on_stack
from merge_core.kernels.cpu.program import Step, calling
from merge_core.kernels.cpu.stored_tensor import (
    FusedKernel,
    StoredBlock,
    StoredTensor,
    Unusual,
    unusual,
)
from merge_core.kernels.cpu.task_vector_loops import sum_agreeing, sum_all
from merge_core.kernels.cpu.thresholds import (
    EVIDENT,
    INFINITE,
    TILE,
    Cut,
    Patterns,
    Window,
    count_in_window,
    find_cuts,
    least_magnitude,
)
from merge_core.kernels.cpu.weighted_sum import (
    can_sum_in_float32,
    sum_of_two_powers,
    weighted_sum,
)
from merge_core.methods.parts.gram import GramKernel
from merge_core.methods.parts.sparsify import TINY_NORM
from merge_core.methods.parts.unordered import FEW, grid_factors, order_of
from merge_core.reductions.constants import TINY_SUM
from merge_core.reductions.cpu import dot_in_steps, gram_of_two_in_steps

_FEW_SHARES = 8


def restoring_factor(norm: str, total: Array) -> float:
    """What gives a task vector back its norm ("l1" or "l2"), from sums before and after masking."""
    before, after = (float(value) for value in total)
    if norm == "l2":
        before, after = math.sqrt(before), math.sqrt(after)
    return before / after if before >= TINY_NORM and after >= TINY_NORM else 1.0


class WeightedSum(FusedKernel):
    """out = sum_k weights[k] * models[k] / divisor."""

    def __init__(self, weights: Sequence[float], divisor: float) -> None:
        # Dividing by a power of two is exact, so it may as well be done before: divisions are slow.
        beforehand = abs(math.frexp(divisor)[0]) == 0.5
        self._weights = tuple(weight / divisor if beforehand else weight for weight in weights)
        self._divisor = None if beforehand else divisor

    def steps(self, block: StoredBlock, out: Array) -> Iterable[Step]:
        if self._divisor is None and can_sum_in_float32(block.models, self._weights, out):
            yield calling(sum_of_two_powers, block.models, self._weights, out)
        else:
            yield calling(weighted_sum, block.models, self._weights, self._divisor, out)


@cache
def _sums_are_powers(shares: tuple[float, ...]) -> bool:
    """Whether every sum of some of the shares is a power of two; division is then exact scaling."""
    if len(shares) > _FEW_SHARES or min(shares) < TINY_SUM:
        return False
    sums = {sum(some) for count in range(len(shares)) for some in combinations(shares, count + 1)}
    return all(math.frexp(each)[0] == 0.5 for each in sums)


def _ordered(items: tuple[Any, ...], order: Sequence[int]) -> tuple[Any, ...]:
    return tuple([items[place] for place in order])


@dataclass(frozen=True)
class Joining:
    """How sparsified task vectors become one."""

    weights: tuple[float, ...]
    scale: float
    normalize: bool
    consensus: bool
    by_count: bool = False
    """Whether models vote with one voice each, not with their entries' size."""
    divide_by_count: bool = False

    def step(
        self,
        block: StoredBlock,
        masks: tuple[Any, ...],
        factors: tuple[float, ...] | None,
        out: Array,
    ) -> Step:
        """What joins a block of task vectors, each times its factor if there are any."""
        if self.consensus:
            ones = (1.0,) * len(self.weights)
            shares = ones if self.divide_by_count else self.weights
            order, count = order_of(shares), len(shares)
            return calling(
                sum_agreeing,
                block.base,
                _ordered(block.models, order),
                _ordered(masks, order),
                factors and _ordered(factors, order),
                _ordered(self.weights, order),
                True if self.by_count else None,
                _ordered(shares, order) if self.normalize else None,
                True if self.normalize and _sums_are_powers(shares) else None,
                grid_factors(count) if count > FEW else None,
                self.scale,
                out,
            )
        divisor = sum(self.weights)
        divided = self.normalize and abs(divisor) >= TINY_SUM and divisor != 1.0
        return calling(
            sum_all,
            block.base,
            block.models,
            masks,
            factors,
            self.weights,
            divisor if divided else None,
            self.scale,
            out,
        )


class TaskVectors(FusedKernel):
    """Every entry of every task vector stays: task arithmetic."""

    def __init__(self, joining: Joining) -> None:
        self._joining = joining

    def steps(self, block: StoredBlock, out: Array) -> Iterable[Step]:
        yield self._joining.step(block, ((),) * len(block.models), None, out)


@dataclass(frozen=True)
class Band:
    """Which entries of a task vector stay: `dropped` largest go, the next `kept` stay."""

    kept: int
    dropped: int = 0


class Bands(FusedKernel):
    """The entries of each task vector in a band of magnitudes stay: TIES and Breadcrumbs."""

    drops = True

    def __init__(self, joining: Joining, bands: Sequence[Band]) -> None:
        self._joining = joining
        self._bands = bands
        self._cuts: list[tuple[Cut, Cut]] = []

    def prepare(self, tensor: StoredTensor) -> None:
        wanted: list[tuple[Patterns, int]] = []
        for model, band in enumerate(self._bands):
            patterns = Differences(model)
            wanted += [(patterns, band.dropped + band.kept), (patterns, band.dropped)]
        cuts = find_cuts(tensor, wanted)
        self._cuts = list(zip(cuts[::2], cuts[1::2], strict=True))
        # Where every model was searched, every entry is finite.
        self.drops = any(low in EVIDENT and high in EVIDENT for low, high in self._cuts)

    def boundaries(self) -> Sequence[int]:
        return [cut.last + 1 for cuts in self._cuts for cut in cuts if cut.last is not None]

    def steps(self, block: StoredBlock, out: Array) -> Iterable[Step]:
        yield self._joining.step(block, self._masks(block.start), None, out)

    def _masks(self, start: int) -> tuple[Any, ...]:
        """What stays from an index to the next tie; without upper ends if there are none."""
        ends = [tuple(least_magnitude(cut.lowest(start)) for cut in cuts) for cuts in self._cuts]
        if all(high == math.inf for _, high in ends):
            return tuple((low,) for low, _ in ends)
        return tuple(ends)


@dataclass(frozen=True)
class Differences:
    """Magnitude patterns of one model's task vector. Raises Unusual where they are not finite."""

    model: int

    def writing(self, block: StoredBlock, bits: Array) -> Sequence[Step]:
        """What writes a block's patterns."""
        arrays = block.base, block.models[self.model], bits
        return [calling(_write_differences, *arrays, on_failure=unusual)]

    def counting(self, block: StoredBlock, windows: tuple[Window, ...]) -> Sequence[Step]:
        """What counts them in some windows."""
        arrays = block.base, block.models[self.model]
        return [calling(_count_differences, *arrays, windows, on_failure=unusual)]


_patterns_on_stack = array_on_stack("int32", TILE)


@compiled
def _write_differences(base: Array, model: Array, bits: Array) -> Any:
    """Write magnitude patterns; whether all are finite."""
    largest = np.int32(0)
    for i in range(bits.size):
        pattern = magnitude_bits(widen(model[i]) - widen(base[i]))
        largest = max(largest, pattern)
        bits[i] = pattern
    return largest < np.int32(INFINITE)


@compiled
def _count_differences(base: Array, model: Array, windows: tuple[Any, ...]) -> bool:
    """Count magnitude patterns in some windows; whether all are finite."""
    patterns = _patterns_on_stack()
    finite = True
    for first in range(0, model.size, TILE):
        those = slice(first, min(first + TILE, model.size))
        bits = patterns[: those.stop - first]
        finite &= _write_differences(base[those], model[those], bits)
        for k in range(len(windows)):
            count_in_window(bits, windows[k])
    return finite


class Combination(FusedKernel):
    """Models or task vectors with coefficients from their dot products: SLERP and its kin.

    Args:
        kernel: the method's own kernel, which knows the coefficients.
    """

    def __init__(self, kernel: GramKernel) -> None:
        self._kernel = kernel
        self._coefficients: tuple[float, ...] = ()
        self.step = kernel.step

    def prepare(self, tensor: StoredTensor) -> None:
        gram = self._gram(tensor)
        if not np.isfinite(gram).all():
            raise Unusual
        self._coefficients = tuple(self._kernel.coefficients(gram))

    def steps(self, block: StoredBlock, out: Array) -> Iterable[Step]:
        vectors, base = self._vectors(block)
        if base is None:
            yield calling(weighted_sum, vectors, self._coefficients, None, out)
            return
        joining = Joining(self._coefficients, 1.0, normalize=False, consensus=False)
        yield joining.step(block, ((),) * len(vectors), None, out)

    def _gram(self, tensor: StoredTensor) -> Array:
        """The dot products of what is combined, each with each."""
        count = self._kernel.count
        pairs = list(combinations_with_replacement(range(count), 2))
        totals = np.zeros(len(pairs))

        def steps(block: StoredBlock) -> Iterator[Step]:
            vectors, base = self._vectors(block)
            if count == 2:
                yield calling(gram_of_two_in_steps, *vectors, base, self.step, totals)
                return
            for place, (i, j) in enumerate(pairs):
                total = totals[place : place + 1]
                yield calling(dot_in_steps, vectors[i], vectors[j], base, self.step, total)

        for _ in tensor.walk(steps):
            pass
        gram = np.zeros((count, count))
        for total, (i, j) in zip(totals, pairs, strict=True):
            gram[i, j] = gram[j, i] = total
        return gram

    def _vectors(self, block: StoredBlock) -> tuple[tuple[Array, ...], Array | None]:
        """What is combined, and the base that is to be subtracted from it, if any."""
        if self._kernel.spanning == "models" or block.base is None:
            return block.models, None
        if self._kernel.spanning == "task vectors":
            return block.models, block.base
        return (block.base, *block.models), None
