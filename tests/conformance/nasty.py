"""Checkpoints made of the tensors that break merges, and the comparison with an oracle's values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from merge_core.records import SourceCheckpoint
from tests.conformance.oracle import Array
from tests.support.checkpoints import run_recipe

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
MANTISSA = {torch.bfloat16: 7, torch.float16: 10, torch.float32: 23}
SMALLEST = {torch.bfloat16: 2.0**-133, torch.float16: 2.0**-24, torch.float32: 2.0**-149}
NAMES = ("base", "a", "b", "c")

Zoo = Mapping[str, SourceCheckpoint]
Models = Mapping[str, Array]
Oracle = Callable[[Models], Array]
"""One merged tensor from the same tensor of every model."""


def nasty_tensors(model: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Ties, zeros, conflicts, vectors, scalars, nothing at all; opposed, frozen and equal models.

    `embed` and `long` are longer than one step of a reduction; every value of `long` has an equal
    one. The task vectors of `equal` are the same in all models and, in float32, take all bits of a
    float64.
    """
    seed = NAMES.index(model)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.Generator().manual_seed(100)
    tuned = float(model != "base")
    base = torch.randn(130, 517, generator=noise)
    direction = torch.randn(24, 40, generator=noise)
    delta = 0.05 * torch.randn(130, 517, generator=generator) * tuned
    ternary = torch.randint(-1, 2, (64, 100), generator=generator) * 0.25 * tuned
    conflict = 0.125 * (1 if seed % 2 else -1) * tuned * torch.ones(40, 50)
    patchy = 0.1 * torch.randn(24, 40, generator=generator) * tuned
    patchy[:4] = 0
    patchy[4:8] = direction[4:8] * (0.0, 0.5, -0.5, 0.25)[seed]
    if model == "c":
        patchy[8:10] = 0
    tensors = {
        "embed.weight": base + delta,
        "layers.0.ties.weight": torch.ones(64, 100) + ternary,
        "layers.0.zeros.weight": torch.zeros(33, 7),
        "layers.1.conflict.weight": torch.ones(40, 50) + conflict,
        "layers.1.vector.bias": torch.randn(1001, generator=generator),
        "layers.1.patchy.weight": direction + patchy,
        "layers.1.opposed.weight": direction * (0.0, 1.0, -1.0, 0.5)[seed],
        "layers.2.equal.weight": 1e-9 * direction + direction.roll(1, 0) * tuned,
        "layers.2.conv.weight": torch.randn(6, 5, 7, generator=generator),
        "layers.2.one.weight": torch.randn(1, generator=generator),
        "layers.2.empty.weight": torch.empty(0, 5),
        "layers.2.rowless.weight": torch.empty(5, 0),
        "layers.2.same.weight": base[:20].clone(),
        "layers.2.tall.weight": torch.randn(50, 1, generator=generator),
        "norm.scalar": torch.tensor(1.5 + seed),
        "long.weight": torch.cat([(base + delta).ravel()[:33_000]] * 2),
    }
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def entry(model: str, **parameters: object) -> dict[str, object]:
    """One entry of a recipe's models."""
    return {"model": model, "parameters": parameters}


def merge_nasty(recipe: dict[str, object], zoo: Zoo, out: Path) -> None:
    """Run a recipe in the smallest blocks there are."""
    run_recipe(recipe, zoo, out, block_elements=1)


def values(zoo: Zoo, name: str) -> dict[str, Array]:
    """A checkpoint's tensors in float64, read once."""
    return _in_float64(zoo[name].directory / "model.safetensors")


@cache
def _in_float64(file: Path) -> dict[str, Array]:
    found = {key: tensor.to(torch.float64).numpy() for key, tensor in load_file(file).items()}
    for array in found.values():
        array.flags.writeable = False
    return found


def every_tensor(zoo: Zoo, oracle: Oracle) -> dict[str, Array]:
    """An oracle's result for all tensors."""
    loaded = {name: values(zoo, name) for name in NAMES}
    return {key: oracle({name: loaded[name][key] for name in NAMES}) for key in loaded["base"]}


def end_to_end(zoo: Zoo, merge: Oracle, only: str = "") -> Mapping[str, Array]:
    """An oracle's result for one long tensor of all whose name contains `only`, cut up again."""
    loaded = {name: values(zoo, name) for name in NAMES}
    names = sorted(key for key in loaded["base"] if only in key)
    long = {name: np.concatenate([loaded[name][key].ravel() for key in names]) for name in NAMES}
    merged = merge(long)
    sizes = [loaded["base"][key].size for key in names]
    pieces = np.split(merged, np.cumsum(sizes)[:-1])
    shaped = zip(names, pieces, strict=True)
    return {key: piece.reshape(loaded["base"][key].shape) for key, piece in shaped}


def assert_equals_oracle(
    out: Path,
    expected: Mapping[str, Array],
    dtype: torch.dtype | None = None,
    slack: float = 0.0,
) -> None:
    """Half a unit of the stored dtype plus 1e-6 relative, plus `slack` of the tensor's largest."""
    merged = load_file(out / "model.safetensors")
    assert merged.keys() == expected.keys()
    for name, tensor in merged.items():
        assert dtype is None or tensor.dtype == dtype
        exact = expected[name]
        assert tuple(tensor.shape) == exact.shape
        unit = np.maximum(
            2.0 ** (np.floor(np.log2(np.maximum(np.abs(exact), 1e-300))) - MANTISSA[tensor.dtype]),
            SMALLEST[tensor.dtype],
        )
        error = np.abs(tensor.to(torch.float64).numpy() - exact)
        allowed = 0.5 * unit + 1e-6 * np.abs(exact) + slack * np.abs(exact).max(initial=0.0)
        wrong = error > allowed
        assert not wrong.any(), (
            f"{name}: {int(wrong.sum())} of {wrong.size} values are off, by up to {error.max()}"
        )
