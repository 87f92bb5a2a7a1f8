"""Every dtype that a checkpoint may hold: merged as an exact computation says, or refused in words.

The exact computation is in Python's fractions. Its results are short enough for float32, so that
one rounding is left, to the stored dtype.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from merge_core.errors import CheckpointError, CompatibilityError
from merge_core.records import SourceCheckpoint
from merge_core.verification.verify import verify
from tests.support.checkpoints import run_recipe, write_checkpoint
from tests.support.tiny_llama import described

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16),
    *(torch.uint32, torch.uint64, torch.bool),
)
EIGHTS = (torch.float8_e4m3fn, torch.float8_e5m2)
NAME = "model.layers.0.mlp.up_proj.weight"
TASK_ARITHMETIC: dict[str, Any] = {
    "merge_method": "task_arithmetic",
    "base_model": "base",
    "models": [
        {"model": "one", "parameters": {"weight": 0.5}},
        {"model": "two", "parameters": {"weight": -0.25}},
    ],
}
Sources = dict[str, SourceCheckpoint]


def write(root: Path, tensors: dict[str, torch.Tensor]) -> Sources:
    """One checkpoint for each tensor, which all call it by the same name."""
    return {model: write_checkpoint(root / model, {NAME: t}) for model, t in tensors.items()}


def numbers(seed: int) -> torch.Tensor:
    """Values with a few bits, of both signs and many magnitudes; exact in every float dtype."""
    generator = torch.Generator().manual_seed(seed)
    digits = torch.randint(-128, 129, (64, 6), generator=generator).double()
    return digits * torch.tensor([2.0**e for e in (-14, -9, -7, -3, 0, 4)], dtype=torch.float64)


def merged(sources: Sources, out: Path, **settings: str) -> torch.Tensor:
    run_recipe(TASK_ARITHMETIC | settings, sources, out, device="cpu")
    return load_file(out / "model.safetensors")[NAME]


def exactly(parts: list[torch.Tensor]) -> torch.Tensor:
    """base + (one - base) / 2 - (two - base) / 4, without rounding; float64 holds it."""
    columns = [[Fraction(float(x)) for x in part.double().ravel()] for part in parts]
    sums = [b + (x - b) / 2 - (y - b) / 4 for b, x, y in zip(*columns, strict=True)]
    assert all(Fraction(float(each)) == each for each in sums)
    return torch.tensor([float(each) for each in sums], dtype=torch.float64).reshape(64, 6)


@pytest.mark.parametrize("out_dtype", [None, *FLOATS], ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_floats_are_merged_exactly_and_rounded_once(
    dtype: torch.dtype, out_dtype: torch.dtype | None, tmp_path: Path
) -> None:
    parts = [numbers(seed).to(dtype) for seed in range(3)]
    sources = write(tmp_path, dict(zip(("base", "one", "two"), parts, strict=True)))
    settings = {"out_dtype": str(out_dtype).removeprefix("torch.")} if out_dtype else {}
    result = merged(sources, tmp_path / "out", **settings)
    assert result.dtype == (out_dtype or dtype)
    assert torch.equal(result, exactly(parts).to(out_dtype or dtype))


def test_models_of_different_float_dtypes_are_merged_exactly(tmp_path: Path) -> None:
    dtypes = (torch.bfloat16, torch.float32, torch.float16)
    parts = [numbers(seed).to(dtype) for seed, dtype in enumerate(dtypes)]
    sources = write(tmp_path, dict(zip(("base", "one", "two"), parts, strict=True)))
    result = merged(sources, tmp_path / "out")
    assert torch.equal(result, exactly(parts).to(torch.bfloat16))


def some_values(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(200).remainder(2 if dtype == torch.bool else 100).to(dtype)


@pytest.mark.parametrize("dtype", [*INTEGERS, *EIGHTS], ids=str)
def test_what_has_no_mean_is_copied_where_all_agree(dtype: torch.dtype, tmp_path: Path) -> None:
    values = some_values(dtype)
    sources = write(tmp_path, dict.fromkeys(("base", "one", "two"), values))
    result = merged(sources, tmp_path / "out", out_dtype="bfloat16")
    assert result.dtype == dtype
    assert torch.equal(result.view(torch.uint8), values.view(torch.uint8))


@pytest.mark.parametrize("dtype", [*INTEGERS, *EIGHTS], ids=str)
def test_what_has_no_mean_is_refused_where_models_differ(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    values = some_values(dtype)
    other = values.clone().view(torch.uint8)
    other[-1] ^= 1
    tensors = {"base": values, "one": values, "two": other.view(dtype)}
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(CompatibilityError, match=f"holds {name} values that differ") as caught:
        merged(write(tmp_path, tensors), tmp_path / "out")
    assert "cannot be averaged" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [*EIGHTS, torch.int8, torch.uint8], ids=str)
def test_verify_refuses_weights_of_eight_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    sources = write(tmp_path, dict.fromkeys(("base", "one"), some_values(dtype)))
    codes = [error.code for error in verify(sources["base"], [sources["one"]]).errors]
    assert codes == ["quantised-weights"] * 2


@pytest.mark.parametrize("code", ["F4", "F6_E2M3", "F8_E8M0"])
def test_formats_that_are_not_read_are_refused_by_name(code: str, tmp_path: Path) -> None:
    header = {"w": {"dtype": code, "shape": [2], "data_offsets": [0, 2]}}
    text = json.dumps(header).encode()
    tmp_path.joinpath("model.safetensors").write_bytes(
        len(text).to_bytes(8, "little") + text + b"\0\0"
    )
    with pytest.raises(CheckpointError, match=f"is {code}, a format of") as caught:
        described(tmp_path)
    assert "unquantised" in str(caught.value)


QUANTISED = {
    "gptq": {"qweight": torch.int32, "qzeros": torch.int32, "scales": torch.float16},
    "awq": {"qweight": torch.int32, "qzeros": torch.int32, "scales": torch.float16},
    "bitsandbytes": {"weight": torch.uint8, "weight.absmax": torch.uint8},
    "fp8": {"weight": torch.float8_e4m3fn, "weight_scale_inv": torch.float32},
    "compressed-tensors": {"weight_packed": torch.int32, "weight_scale": torch.bfloat16},
    "mxfp4": {"gate_up_proj_blocks": torch.uint8, "gate_up_proj_scales": torch.uint8},
}
"""Tensors of a quantised matrix, by `quant_method`, as published checkpoints have them."""


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
@pytest.mark.parametrize("method", QUANTISED)
def test_quantised_checkpoints_are_refused_with_the_way_out(
    method: str, declared: bool, tmp_path: Path
) -> None:
    sources = []
    for model in ("base", "one"):
        names = QUANTISED[method].items()
        prefix = "model.layers.0.mlp.up_proj"
        write_checkpoint(
            tmp_path / model,
            {f"{prefix}.{name}": torch.zeros(4, 4).to(dtype) for name, dtype in names},
        )
        config = {"model_type": "llama"}
        if declared:
            config |= {"quantization_config": {"quant_method": method}}  # type: ignore[dict-item]
        (tmp_path / model / "config.json").write_text(json.dumps(config))
        sources.append(described(tmp_path / model))
    errors = verify(sources[0], [sources[1]]).errors
    assert {error.code for error in errors} == {"quantised-weights"}
    assert {error.subject for error in errors} == {"base", "one"}
    assert all(("quantised (" + method in error.message) == declared for error in errors)
    assert all("unquantised checkpoint" in str(error.mend) for error in errors)
