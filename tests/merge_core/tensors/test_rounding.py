"""Float64 is rounded once to every stored dtype, as exact fractions say."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from merge_core.tensors.rounding import round_once

DTYPES = (torch.bfloat16, torch.float16)


def nearest(value: float, dtype: torch.dtype) -> float:
    """The nearest of the dtype's numbers, the even one of two, by comparing exact distances."""
    guess = torch.tensor(value, dtype=torch.float64).to(dtype)
    around = [
        torch.nextafter(guess, torch.tensor(-torch.inf, dtype=dtype)),
        guess,
        torch.nextafter(guess, torch.tensor(torch.inf, dtype=dtype)),
    ]

    def distance(candidate: torch.Tensor) -> tuple[Fraction, int]:
        odd = int(candidate.view(torch.int16)) & 1
        return abs(Fraction(float(candidate)) - Fraction(value)), odd

    return float(min((c for c in around if bool(torch.isfinite(c))), key=distance))


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_next_to_a_middle_are_rounded_to_the_nearer_side(dtype: torch.dtype) -> None:
    bits = 8 if dtype == torch.bfloat16 else 11
    values = [
        sign * (1 + odd * 2.0 ** -(bits - 1) + 2.0**-bits + shift) * 2.0**exponent
        for sign in (1, -1)
        for odd in (0, 1)
        for shift in (0.0, 2.0**-40, -(2.0**-40), 2.0**-24, -(2.0**-24), 2.0**-30)
        for exponent in (-20, -14, -3, 0, 9)
    ]
    rounded = round_once(torch.tensor(values, dtype=torch.float64), dtype)
    assert rounded.tolist() == [nearest(value, dtype) for value in values]


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormals_and_the_ends_of_the_range_are_rounded_once(dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    steps = [0.5, 0.5 + 2.0**-45, 1.5 - 2.0**-45, 1.5, 2.5, 2.5 + 2.0**-30, 7.5 - 2.0**-40, 0.25]
    values = [sign * step * tiny for sign in (1, -1) for step in steps]
    largest = torch.finfo(dtype).max
    values += [largest, -largest, 0.0, largest * (1 - 2.0**-30)]
    rounded = round_once(torch.tensor(values, dtype=torch.float64), dtype)
    assert rounded.tolist() == [nearest(value, dtype) for value in values]


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_shape_is_rounded_and_infinity_and_nan_stay(dtype: torch.dtype) -> None:
    noise = torch.randn(3, 40, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert round_once(noise, dtype).shape == noise.shape
    special = torch.tensor([torch.inf, -torch.inf, torch.nan, 1e300], dtype=torch.float64)
    assert str(round_once(special, dtype).tolist()) == "[inf, -inf, nan, inf]"


def test_wider_dtypes_are_torchs_own_rounding() -> None:
    noise = torch.randn(100, dtype=torch.float64)
    assert torch.equal(round_once(noise, torch.float32), noise.to(torch.float32))
    assert torch.equal(round_once(noise, torch.float64), noise)
