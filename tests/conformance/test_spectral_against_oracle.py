"""The spectral methods equal numpy oracles on every kind of matrix, and on what is no matrix.

`SLACK` of the largest value is allowed: both sides compute in float64 and lose a few digits where
singular values crowd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from merge_core.methods.parts.random_bits import keep_mask
from tests.conformance import oracle_spectral as oracle
from tests.conformance.nasty import (
    Models,
    Zoo,
    assert_equals_oracle,
    entry,
    every_tensor,
    merge_nasty,
)
from tests.conformance.oracle import Array
from tests.support.kernels import merge_tensor

SLACK = 1e-9


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def low_rank(seed: int, rank: int, rows: int, columns: int) -> Array:
    return normal(seed, rows, rank) @ normal(seed + 100, rank, columns) / rank


TASK_VECTORS: dict[str, list[Array]] = {
    "tall": [normal(i, 20, 14) for i in range(3)],
    "wide": [normal(i, 14, 33) for i in range(3)],
    "square": [normal(i, 12, 12) for i in range(4)],
    "of unlike sizes": [normal(i, 12, 15) * 10.0**-i for i in range(4)],
    "of low rank": [low_rank(i, 2, 20, 14) for i in range(3)],
    "one model": [normal(5, 9, 16)],
    "one model of low rank": [low_rank(5, 3, 9, 16)],
    "more models than directions": [normal(i, 3, 7) for i in range(5)],
    "one of them zero": [normal(0, 9, 8), np.zeros((9, 8)), normal(2, 9, 8)],
    "all zero": [np.zeros((6, 8))] * 3,
    "identical": [normal(3, 10, 8)] * 3,
    "identical, of low rank": [low_rank(3, 2, 10, 8)] * 2,
    "opposed": [normal(4, 10, 8), -normal(4, 10, 8)],
    "opposed, and a third": [normal(4, 10, 8), -normal(4, 10, 8), normal(5, 10, 8)],
    "parallel": [normal(4, 10, 8), 0.5 * normal(4, 10, 8), 4 * normal(4, 10, 8)],
    "frozen rows and columns": [np.pad(normal(i, 7, 6), ((2, 0), (0, 3))) for i in range(3)],
    "very small": [1e-30 * normal(i, 6, 9) for i in range(2)],
    "a vector": [normal(i, 11) for i in range(3)],
    "a scalar": [normal(i) * np.ones(()) for i in range(3)],
    "one row": [normal(i, 1, 9) for i in range(2)],
    "one column": [normal(i, 9, 1) for i in range(2)],
    "a convolution": [normal(i, 4, 3, 5) for i in range(2)],
    "nothing": [np.zeros((0, 5))] * 2,
}

Merge = Callable[[Array, Sequence[Array]], Array]

CASES: dict[str, tuple[str, dict[str, object], Merge]] = {
    "iso_c": ("iso_c", {}, oracle.iso_c),
    "iso_c, scaled": ("iso_c", {"lambda": -0.7}, lambda b, m: oracle.iso_c(b, m, -0.7)),
    "iso_cts": ("iso_cts", {}, oracle.iso_cts),
    "iso_cts, nothing common": ("iso_cts", {"common": 0.0, "lambda": 1.3},
                                lambda b, m: oracle.iso_cts(b, m, 0.0, 1.3)),
    "iso_cts, half common": ("iso_cts", {"common": 0.5}, lambda b, m: oracle.iso_cts(b, m, 0.5)),
    "iso_cts, all common": ("iso_cts", {"common": 1.0}, oracle.iso_c),
    "tsv_m": ("tsv_m", {}, oracle.tsv_m),
    "tsv_m, scaled": ("tsv_m", {"lambda": 0.4}, lambda b, m: oracle.tsv_m(b, m, 0.4)),
    "star": ("star", {}, oracle.star),
    "star, one direction": ("star", {"eta": 0.0}, lambda b, m: oracle.star(b, m, 0.0)),
    "star, nine tenths": ("star", {"eta": 0.9, "lambda": 1.7},
                          lambda b, m: oracle.star(b, m, 0.9, 1.7)),
    "knots": ("knots", {}, oracle.knots),
    "knots, linear": ("knots", {"combine": "linear", "lambda": 0.3},
                      lambda b, m: oracle.knots(b, m, "linear", scale=0.3)),
    "wudi": ("wudi", {}, oracle.wudi),
    "wudi, a large ridge": ("wudi", {"ridge": 0.05, "lambda": 0.6},
                            lambda b, m: oracle.wudi(b, m, 0.05, 0.6)),
    "wudi, adam": ("wudi", {"solver": "adam"}, oracle.wudi_adam),
    "wudi, adam for longer": ("wudi", {"solver": "adam", "learning_rate": 1e-3, "steps": 40.0},
                              lambda b, m: oracle.wudi_adam(b, m, 1e-3, 40)),
}  # fmt: skip


PAIRS = [
    (case, kind)
    for case in sorted(CASES)
    for kind in sorted(TASK_VECTORS)
    if not ("adam" in case and kind == "very small")  # far below a step: what is left is rounding
]


@pytest.mark.parametrize(("case", "kind"), PAIRS)
def test_a_spectral_method_equals_its_oracle(case: str, kind: str) -> None:
    method, parameters, expected = CASES[case]
    deltas = TASK_VECTORS[kind]
    base = np.zeros_like(deltas[0])  # so that task vectors are what they say, to the last bit
    assert_near(merge_tensor(method, base, deltas, **parameters), expected(base, deltas), deltas)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["iso_c", "iso_cts", "tsv_m", "star", "knots", "wudi"])
def test_the_result_is_added_to_the_base(method: str) -> None:
    deltas = TASK_VECTORS["tall"]
    base = normal(50, 20, 14)
    alone = merge_tensor(method, np.zeros_like(base), deltas)
    assert_near(merge_tensor(method, base, [base + d for d in deltas]) - base, alone, deltas)


@pytest.mark.parametrize("kind", ["tall", "wide", "square", "of low rank", "one of them zero"])
def test_knots_trims_each_aligned_part_by_its_density(kind: str) -> None:
    deltas = TASK_VECTORS[kind]
    base = np.zeros_like(deltas[0])
    densities = [0.2, 0.7, 0.45, 0.1][: len(deltas)]
    found = merge_tensor("knots", base, deltas, each=[{"density": d} for d in densities])
    assert_near(found, oracle.knots(base, deltas, "ties", densities), deltas)


@pytest.mark.parametrize("combine", ["dare", "dare_ties"])
@pytest.mark.parametrize("kind", ["tall", "wide", "of low rank", "one of them zero", "all zero"])
def test_knots_drops_entries_by_the_models_random_numbers(combine: str, kind: str) -> None:
    deltas = TASK_VECTORS[kind]
    base = np.zeros_like(deltas[0])
    densities, keys = [0.5, 0.8, 0.3], [11, 22, 1 << 63]
    masks = [
        keep_mask(key, 0, 10_000, density, torch.device("cpu")).numpy().astype(np.float64)
        for key, density in zip(keys, densities, strict=True)
    ]
    each = [{"density": density} for density in densities]
    found = merge_tensor("knots", base, deltas, each=each, keys=keys, combine=combine)
    assert_near(found, oracle.knots(base, deltas, combine, densities, masks), deltas)


NASTY_CASES: dict[str, tuple[dict[str, object], Callable[[Models], Array]]] = {
    "iso_c": ({"lambda": 0.8}, lambda m: oracle.iso_c(m["base"], abc(m), 0.8)),
    "iso_cts": ({}, lambda m: oracle.iso_cts(m["base"], abc(m))),
    "tsv_m": ({}, lambda m: oracle.tsv_m(m["base"], abc(m))),
    "star": ({"eta": 0.6}, lambda m: oracle.star(m["base"], abc(m), 0.6)),
    "knots": ({}, lambda m: oracle.knots(m["base"], abc(m))),
    "knots, linear": ({"combine": "linear"}, lambda m: oracle.knots(m["base"], abc(m), "linear")),
    "wudi": ({}, lambda m: oracle.wudi(m["base"], abc(m))),
}  # fmt: skip


def abc(m: Models) -> list[Array]:
    return [m[name] for name in "abc"]


@pytest.mark.parametrize("case", sorted(NASTY_CASES))
def test_a_spectral_merge_of_nasty_checkpoints_equals_its_oracle(
    case: str, zoo: Zoo, tmp_path: Path
) -> None:
    parameters, expected = NASTY_CASES[case]
    recipe = {
        "merge_method": case.split(",")[0],
        "base_model": "base",
        "models": [entry(name) for name in "abc"],
        "parameters": parameters,
    }
    merge_nasty(recipe, zoo, tmp_path / "out")
    assert_equals_oracle(tmp_path / "out", every_tensor(zoo, expected), slack=SLACK)


def assert_near(found: Array, expected: Array, deltas: Sequence[Array]) -> None:
    """Within `SLACK` of the largest value of the task vectors that went in."""
    assert found.shape == expected.shape
    error = np.abs(found - expected).max(initial=0.0)
    largest = max(np.abs(delta).max(initial=0.0) for delta in deltas)
    assert error <= SLACK * largest, f"off by up to {error}"
