"""What one pass over a run of weights adds up to: products, signs and magnitudes of task vectors.

Every number is a sum over elements, so runs can be computed anywhere and added in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from merge_core.runtime.lazy_torch import torch
from merge_core.tensors.block_reader import BlockReader
from merge_core.tensors.inputs import TensorInput, values_of

BLOCK = 1 << 18
BINS = 1 << 15
_INFINITY_BIN = 0x7F80
_CHUNK = 1 << 8
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass
class Sums:
    """Sums over some weights of a base θ0 and of n task vectors τi = θi - θ0."""

    elements: int
    products: Floats
    """(n + 1, n + 1): inner products of θ0, τ1, ..., τn."""
    changed: Integers
    """(n, n): elements where τi and τj are both not zero; the diagonal counts one τi."""
    opposed: Integers
    """(n, n): elements where τi and τj have opposite signs."""
    any_changed: int
    """Elements where at least two task vectors are not zero."""
    any_opposed: int
    """Elements where at least two task vectors have opposite signs."""
    magnitudes: Integers
    """(n, 32768): elements by the upper 15 bits of |τi| as float32 (see `bin_values`)."""

    @classmethod
    def zero(cls, models: int) -> Sums:
        """The sums over nothing."""
        square = (models, models)
        return cls(
            elements=0,
            products=np.zeros((models + 1, models + 1)),
            changed=np.zeros(square, np.int64),
            opposed=np.zeros(square, np.int64),
            any_changed=0,
            any_opposed=0,
            magnitudes=np.zeros((models, BINS), np.int64),
        )

    def add(self, other: Sums) -> None:
        """Take in the sums over other weights. Floats: keep the order of calls fixed."""
        self.elements += other.elements
        self.products += other.products
        self.changed += other.changed
        self.opposed += other.opposed
        self.any_changed += other.any_changed
        self.any_opposed += other.any_opposed
        self.magnitudes += other.magnitudes


def sum_run(
    base: TensorInput, models: Sequence[TensorInput], reader: BlockReader, first: int, last: int
) -> Sums:
    """The sums over elements `first : last` of one tensor, reading a block at a time."""
    sums = Sums.zero(len(models))
    work = torch.float64 if base.dtype == "F64" else torch.float32
    length = min(BLOCK, _padded(last - first))
    rows = torch.empty(len(models) + 1, length, dtype=work)
    bins = torch.empty(length, dtype=torch.int32)
    read_base, *read_models = (values_of(source, reader) for source in (base, *models))
    for start in range(first, last, BLOCK):
        count = min(BLOCK, last - start)
        block = rows[:, : _padded(count)]
        block[:, count:] = 0
        block[0, :count] = read_base(start, count)
        for row, read in zip(block[1:], read_models, strict=True):
            row[:count] = read(start, count)
            row[:count] -= block[0, :count]
        sums.elements += count
        sums.products += _products(block)
        _add_signs(sums, block[1:, :count].numpy())
        for index, row in enumerate(block[1:, :count]):
            sums.magnitudes[index] += _histogram(row, bins[:count])
    return sums


def bin_values() -> Floats:
    """The magnitude that stands for each bin: its middle, at most 0.4 % from any value in it.

    A float32's upper 15 bits after the sign are its exponent and 7 bits of its mantissa, so a bin
    is 1/128 of its value wide (wider only below 1e-38). The first bin holds zero; those of
    infinity and NaN, which no profile has, are given 0.
    """
    lower = np.arange(_INFINITY_BIN, dtype=np.uint32) << 16
    upper = lower + np.uint32(0xFFFF)
    values = np.zeros(BINS)
    values[:_INFINITY_BIN] = (
        lower.view(np.float32).astype(np.float64) + upper.view(np.float32).astype(np.float64)
    ) / 2
    values[0] = 0.0
    return values


def _products(block: torch.Tensor) -> Floats:
    """Inner products of a block's rows: float32 over 256 elements, float64 from there.

    One small product for each chunk of a fixed grid, so the order of the sum depends on nothing
    else. Within 1e-7 of the exact product of the norms.
    """
    chunks = block.view(len(block), -1, _CHUNK).transpose(0, 1)
    return torch.bmm(chunks, chunks.transpose(1, 2)).sum(0, dtype=torch.float64).numpy()


def _histogram(delta: torch.Tensor, bins: torch.Tensor) -> Integers:
    torch.bitwise_and(delta.float().view(torch.int32), 0x7FFFFFFF, out=bins)
    bins.bitwise_right_shift_(16)
    return torch.bincount(bins, minlength=BINS).numpy()


def _add_signs(sums: Sums, deltas: npt.NDArray[Any]) -> None:
    positive, negative = np.greater(deltas, 0), np.less(deltas, 0)
    nonzero = positive | negative
    for i in range(len(deltas)):
        sums.changed[i, i] += np.count_nonzero(nonzero[i])
        for j in range(i):
            changed = np.count_nonzero(nonzero[i] & nonzero[j])
            same = np.count_nonzero(positive[i] & positive[j])
            same += np.count_nonzero(negative[i] & negative[j])
            sums.changed[i, j] = sums.changed[j, i] = sums.changed[i, j] + changed
            sums.opposed[i, j] = sums.opposed[j, i] = sums.opposed[i, j] + changed - same
    if len(deltas) > 1:
        several = nonzero.sum(axis=0, dtype=np.uint8) > 1
        sums.any_changed += int(np.count_nonzero(several))
        opposed = positive.any(axis=0) & negative.any(axis=0)
        sums.any_opposed += int(np.count_nonzero(opposed))


def _padded(count: int) -> int:
    return -(-count // _CHUNK) * _CHUNK
