"""Ancestry is measured: the numbers equal an oracle's, and the verdicts separate known cases."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from merge_core.checkpoints.checkpoint import open_checkpoint
from merge_core.tensors.block_reader import BlockReader
from merge_core.verification.ancestry import Ancestry, measure_ancestry, same_weights
from tests.support.checkpoints import write_checkpoint
from tests.support.tiny_llama import base_weights, fine_tuned

Weights = dict[str, torch.Tensor]


def measured(tmp_path: Path, base: Weights, model: Weights) -> Ancestry | None:
    one = write_checkpoint(tmp_path / "base", base)
    other = write_checkpoint(tmp_path / "model", model)
    with BlockReader() as reader:
        return measure_ancestry(
            open_checkpoint(one.directory), open_checkpoint(other.directory), reader
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_small_matrices_are_measured_whole_and_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    base = base_weights(dtype=dtype)
    model = fine_tuned(base, 1)
    ancestry = measured(tmp_path, base, model)
    matrices = [name for name, tensor in base.items() if tensor.dim() == 2]
    x, y = (
        np.concatenate([w[name].double().numpy().ravel() for name in matrices])
        for w in (base, model)
    )
    assert ancestry is not None
    assert ancestry.tensors == len(matrices)
    assert ancestry.elements == len(x)
    assert ancestry.relative_norm == pytest.approx(np.linalg.norm(y - x) / np.linalg.norm(x))
    assert ancestry.cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def test_two_training_runs_are_orthogonal_and_unrelated(tmp_path: Path) -> None:
    base = {"w": torch.randn(500, 500), "norm": torch.ones(500)}
    model = {"w": torch.randn(500, 500), "norm": torch.ones(500)}
    ancestry = measured(tmp_path, base, model)
    assert ancestry is not None
    assert ancestry.kinship == "unrelated"
    assert abs(ancestry.cosine) < 0.02
    assert ancestry.relative_norm == pytest.approx(math.sqrt(2), rel=0.02)


@pytest.mark.parametrize(
    ("noise", "kinship"),
    [
        (0.0, "identical"),
        (0.2, "near"),
        (0.45, "near"),
        (0.62, "far"),
        (1.5, "far"),
        (2.0, "unrelated"),
    ],
)
def test_the_verdict_follows_the_distance(tmp_path: Path, noise: float, kinship: str) -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(300, 300, generator=generator)
    model = base + noise * torch.randn(300, 300, generator=generator)
    ancestry = measured(tmp_path, {"w": base}, {"w": model})
    assert ancestry is not None
    assert ancestry.kinship == kinship


def test_one_retrained_head_does_not_make_a_stranger(tmp_path: Path) -> None:
    base = base_weights()
    model = fine_tuned(base, 1) | {"lm_head.weight": 10 * torch.randn(32, 16)}
    ancestry = measured(tmp_path, base, model)
    assert ancestry is not None
    assert ancestry.cosine < 0.5
    assert ancestry.median_cosine > 0.95
    assert ancestry.kinship == "far"


def test_a_large_model_is_sampled_the_same_way_every_time(tmp_path: Path) -> None:
    names = [f"layers.{index}.weight" for index in range(70)]
    base = {name: torch.randn(20, 20) for name in names} | {"big": torch.randn(400, 400)}
    model = {name: tensor + 0.1 * torch.randn(tensor.shape) for name, tensor in base.items()}
    first = measured(tmp_path / "1", base, model)
    second = measured(tmp_path / "2", base, model)
    assert first == second
    assert first is not None
    assert first.tensors == 64
    assert first.relative_norm == pytest.approx(0.1, rel=0.05)


def test_weights_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    base = base_weights()
    model = fine_tuned(base, 1)
    model["lm_head.weight"][0, 0] = float("nan")
    ancestry = measured(tmp_path, base, model)
    assert ancestry is not None
    assert ancestry.kinship == "near"


@pytest.mark.parametrize(
    ("base", "model"),
    [
        ({"w": torch.ones(2, 2)}, {"v": torch.ones(2, 2)}),
        ({"w": torch.ones(2, 2)}, {"w": torch.ones(2, 3)}),
        ({"w": torch.ones(2, 2)}, {"w": torch.ones(2, 2, dtype=torch.int64)}),
        ({"w": torch.zeros(2, 2)}, {"w": torch.ones(2, 2)}),
        ({"w": torch.empty(0, 2)}, {"w": torch.empty(0, 2)}),
    ],
)
def test_what_cannot_be_compared_is_not_judged(
    tmp_path: Path, base: Weights, model: Weights
) -> None:
    assert measured(tmp_path, base, model) is None


def test_without_matrices_the_vectors_decide(tmp_path: Path) -> None:
    ancestry = measured(tmp_path, {"w": torch.ones(8)}, {"w": torch.full((8,), 1.1)})
    assert ancestry is not None
    assert ancestry.relative_norm == pytest.approx(0.1, rel=1e-5)


def test_same_weights_looks_at_every_byte(tmp_path: Path) -> None:
    weights = base_weights()
    one = write_checkpoint(tmp_path / "one", weights)
    twin = write_checkpoint(tmp_path / "twin", weights, shards=3)
    almost = {name: tensor.clone() for name, tensor in weights.items()}
    almost["model.norm.weight"][7] += 1e-6
    other = write_checkpoint(tmp_path / "other", almost)
    cast = write_checkpoint(tmp_path / "cast", {n: t.double() for n, t in weights.items()})
    fewer = write_checkpoint(tmp_path / "fewer", {n: t for n, t in weights.items() if "q" not in n})
    first = open_checkpoint(one.directory)
    with BlockReader() as reader:
        results = [
            same_weights(first, open_checkpoint(source.directory), reader)
            for source in (twin, other, cast, fewer)
        ]
    assert results == [True, False, False, False]
