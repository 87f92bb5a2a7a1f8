"""Picking and counting patterns, by vectors and in plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from merge_core.kernels.cpu.windows import (
    WIDTH,
    count_above,
    pick,
    pick_one_by_one,
)


@pytest.mark.parametrize("count", [0, 1, WIDTH - 1, WIDTH, 1000])
@pytest.mark.parametrize("width", [0, 1, 300, 1 << 31])
def test_what_lies_in_the_window_is_picked_in_its_order(count: int, width: int) -> None:
    rng = np.random.default_rng(count)
    patterns = rng.integers(0, 1000, count).astype(np.int32)
    expected = [p - 400 for p in patterns.tolist() if 0 <= p - 400 < width]
    # One more than there are patterns, and nothing is written behind that.
    picked = np.full(count + 2, 7, np.uint32)
    found = pick(patterns, np.int32(400), np.uint32(width), picked[:-1])
    assert picked[:found].tolist() == expected
    assert picked[-1] == 7
    picked = np.empty(count + 1, np.uint32)
    found = pick_one_by_one(patterns, 0, np.int32(400), np.uint32(width), picked, np.int64(0))
    assert picked[:found].tolist() == expected


@pytest.mark.parametrize("count", [0, 1, WIDTH - 1, WIDTH, 1000])
@pytest.mark.parametrize("limit", [-2, -1, 0, 400, (1 << 31) - 1])
def test_what_lies_above_a_limit_is_counted(count: int, limit: int) -> None:
    patterns = np.random.default_rng(count).integers(-1, 800, count).astype(np.int32)
    patterns[: count // 9] = (1 << 31) - 1
    expected = sum(pattern > limit for pattern in patterns.tolist())
    assert count_above(patterns, np.int32(limit)) == expected
