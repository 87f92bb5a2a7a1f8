"""Drawing in compiled loops: the numbers of `random_bits`, and limits by rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from merge_core.jit.calling_convention import Array
from merge_core.jit.kernel import StridedArgument
from merge_core.kernels.cpu import mask_bits
from merge_core.kernels.cpu.mask_bits import KeptMasks
from merge_core.kernels.cpu.program import Program, run_once
from merge_core.kernels.cpu.random_numbers import draw_mask
from merge_core.kernels.cpu.rank_drop import drawing_by_rank
from merge_core.methods.parts.random_bits import BITS, random_integers

Floats = NDArray[np.float32]
KEY, START = 0xFEDCBA9876543210, 12_345
SIZE = 24_000


def numbers(count: int) -> NDArray[np.int64]:
    drawn: NDArray[np.int64] = random_integers(KEY, START, count, torch.device("cpu")).numpy()
    return drawn


@pytest.mark.parametrize("count", [0, 1, 7, 8, 83])
def test_vectors_of_random_numbers_are_those_of_the_definition(count: int) -> None:
    expected = numbers(count)
    limits = [0, 1, 1 << BITS - 2, (1 << BITS) - 1, 1 << BITS, *expected[:1], *(expected[-1:] + 1)]
    for limit in limits:
        mask = np.full(count, 7, np.uint8)
        draw_mask(np.uint64(KEY), np.uint64(limit), START, mask)
        assert (mask == (expected < limit)).all()


def normal(rng: np.random.Generator) -> tuple[Floats, Floats]:
    return _pair(rng.normal(size=SIZE) * 0.02, rng.normal(size=SIZE) * 0.001)


def unchanged(rng: np.random.Generator) -> tuple[Floats, Floats]:
    return _pair(rng.normal(size=SIZE), np.zeros(SIZE))


def all_equal(rng: np.random.Generator) -> tuple[Floats, Floats]:
    return _pair(np.zeros(SIZE), rng.choice([-0.5, 0.5], SIZE))


def few_values(rng: np.random.Generator) -> tuple[Floats, Floats]:
    return _pair(np.zeros(SIZE), rng.integers(-3, 4, SIZE) * 0.25)


def mostly_unchanged(rng: np.random.Generator) -> tuple[Floats, Floats]:
    base = rng.normal(size=SIZE) * 0.02
    return _pair(base, base * rng.choice([0, 0, 0, 2.0**-8, -(2.0**-8)], SIZE))


def outliers(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """All but one of a row are far below its largest."""
    change = rng.normal(size=SIZE)
    change[::400] = 1e6
    return _pair(np.zeros(SIZE), change)


def far_apart(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Differences that no float32 holds; told apart by more bits than a place leaves of 64."""
    return _pair(rng.choice([1.0, 2.0], SIZE), rng.normal(size=SIZE) * 1e-9)


def inexact_here_and_there(rng: np.random.Generator) -> tuple[Floats, Floats]:
    base = rng.normal(size=SIZE) * 0.02
    base[rng.random(SIZE) < 0.01] = 2.0**-40
    return _pair(base, rng.choice([0.0, 0.001], SIZE))


def subnormal(rng: np.random.Generator) -> tuple[Floats, Floats]:
    return _pair(rng.normal(size=SIZE) * 1e-39, rng.normal(size=SIZE) * 1e-39)


def huge(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Differences beyond the largest float32."""
    base = rng.choice([-3e38, 3e38], SIZE)
    return _pair(base, base * -rng.integers(0, 3, SIZE))


def _pair(base: NDArray[Any], change: NDArray[Any]) -> tuple[Floats, Floats]:
    origin = base.astype(np.float32)
    return origin, (origin + change).astype(np.float32)


VALUES = [
    normal,
    unchanged,
    all_equal,
    few_values,
    mostly_unchanged,
    outliers,
    far_apart,
    inexact_here_and_there,
    subnormal,
    huge,
]


@pytest.mark.parametrize("values", VALUES, ids=lambda values: values.__name__)
@pytest.mark.parametrize("bfloat16", [True, False], ids=["BF16", "F32"])
def test_limits_follow_exact_ranks(
    values: Callable[[np.random.Generator], tuple[Floats, Floats]], bfloat16: bool
) -> None:
    base, model = values(np.random.default_rng(0))
    stored: list[NDArray[Any]] = [base, model]
    if bfloat16:
        # Towards zero: which of two neighbours it is does not matter here.
        stored = [(each.view(np.uint32) >> 16).astype(np.uint16) for each in stored]
        base, model = ((each.astype(np.uint32) << 16).view(np.float32) for each in stored)
    exact = np.abs(model.astype(np.float64) - base.astype(np.float64))
    drawn = numbers(SIZE)
    for row in (2, 3, 24, 400, 3000, SIZE):
        order = exact.reshape(-1, row).argsort(axis=1, kind="stable")
        ranks = np.empty_like(order)
        np.put_along_axis(ranks, order, np.broadcast_to(np.arange(row), order.shape), axis=1)
        for density, epsilon in ((0.5, 0.15), (0.5, 0.499), (0.999, 0.001 - 1e-9)):
            low, slope = density - epsilon, 2 * epsilon / (row - 1)
            limits = ((ranks * slope + low) * 2.0**BITS).astype(np.int64)
            mask = draw_by_rank(stored[0], stored[1], row, low, slope)
            assert (mask == (drawn < limits.ravel())).all(), f"rows of {row}"
            assert mask.max() <= 1


def test_a_row_of_half_a_million_entries_has_no_more_bins_than_16_bits_can_number() -> None:
    row = 1 << 19
    rng = np.random.default_rng(1)
    base, model = _pair(np.zeros(row), rng.normal(size=row))
    order = np.abs(model.astype(np.float64)).argsort(kind="stable")
    ranks = np.empty_like(order)
    ranks[order] = np.arange(row)
    slope = 0.3 / (row - 1)
    limits = ((ranks * slope + 0.35) * 2.0**BITS).astype(np.int64)
    mask = draw_by_rank(base, model, row, 0.35, slope)
    assert (mask == (numbers(row) < limits)).all()


def test_a_number_with_the_highest_bits_of_its_limit_is_compared_exactly() -> None:
    row = 4096
    drawn = numbers(row)
    base, model = np.zeros(row, np.float32), np.ones(row, np.float32)
    for place in (0, 17, row - 1):
        for low in (drawn[place], drawn[place] + 1):
            mask = draw_by_rank(base, model, row, float(low) / 2.0**BITS, 0.0)
            assert (mask == (drawn < low)).all()


def draw_by_rank(base: Array, model: Array, row: int, low: float, slope: float) -> Array:
    mask = np.full(base.size, 7, np.uint8)
    run_once(
        [drawing_by_rank(base, model, row, low, slope, KEY, StridedArgument(START, 0), mask)], START
    )
    return mask


@pytest.mark.parametrize("block", [8, 64, 65, 500])
def test_masks_come_back_as_they_were(block: int) -> None:
    masks = [np.zeros(block, np.uint8), np.zeros(block, np.uint8)]
    numel = 3 * block - 5
    kept = [np.random.default_rng(k).integers(0, 2, numel).astype(np.uint8) for k in range(2)]
    mask_bits = KeptMasks(2, numel, block)
    for first in range(0, numel, block):
        parts = [whole[first : first + block].copy() for whole in kept]
        run_once(mask_bits.put(StridedArgument(first, 0), parts), first)
    steps = mask_bits.get(StridedArgument(0, block), masks)
    assert steps is not None
    program = Program(steps, 0, block)
    for number in range(2):
        program.run(number, number + 1)
        for whole, mask in zip(kept, masks, strict=True):
            assert (mask == whole[number * block :][:block]).all()
    last = [np.full(block - 5, 7, np.uint8) for _ in range(2)]
    run_once(mask_bits.get(StridedArgument(2 * block, 0), last) or [], 2 * block)
    assert all((k[2 * block :] == mask).all() for k, mask in zip(kept, last, strict=True))


def test_masks_are_remembered_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_bits, "_room", mask_bits._Room())
    monkeypatch.setattr(mask_bits, "MOST", 64)
    masks = [np.ones(16, np.uint8)] * 2
    first, second = KeptMasks(2, 20, 16), KeptMasks(1, 20, 16)
    assert first.get(StridedArgument(0, 0), masks) is not None
    assert second.put(StridedArgument(0, 0), masks) == []
    assert second.get(StridedArgument(0, 0), masks) is None
    del first
    assert KeptMasks(2, 20, 16).get(StridedArgument(0, 0), masks) is not None
