"""Arcee fusion and PCB equal their oracles; their order statistics are exact, in any blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_core.methods.parts.quantiles import OrderStatistics
from merge_core.reductions.constants import CHUNK
from tests.conformance import oracle_competition as oracle
from tests.conformance.nasty import (
    Models,
    Zoo,
    assert_equals_oracle,
    entry,
    every_tensor,
    merge_nasty,
)
from tests.conformance.oracle import Array
from tests.support.checkpoints import run_recipe, write_checkpoint
from tests.support.kernels import merge_tensor

SHAPES = [
    (40, 30), (1, 50), (50, 1), (7,), (1,), (), (6, 5, 7), (0, 4),
    (300, 400), (131, 1009), (150_001,),
]  # fmt: skip


def normal(seed: int, shape: tuple[int, ...], size: float = 1.0) -> Array:
    return np.asarray(size * np.random.default_rng(seed).standard_normal(shape))


def tuned(shape: tuple[int, ...], count: int) -> tuple[Array, list[Array]]:
    base = normal(0, shape)
    return base, [base + normal(seed, shape, 0.1) for seed in range(1, count + 1)]


@pytest.mark.parametrize("block_steps", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_arcee_fusion_equals_its_oracle(shape: tuple[int, ...], block_steps: int) -> None:
    base, (model,) = tuned(shape, 1)
    found = merge_tensor("arcee_fusion", base, [model], block_steps=block_steps)
    assert np.array_equal(found, oracle.arcee_fusion(base, model))


def test_arcee_fusion_takes_the_changes_that_stand_out() -> None:
    base, (model,) = tuned((200, 60), 1)
    model[:4] = base[:4] + normal(9, (4, 60), 2.0)
    model[100:] = base[100:]
    found = merge_tensor("arcee_fusion", base, [model])
    taken = (found == model) & (model != base)
    assert (taken | (found == base)).all()
    assert taken[:4].mean() > 0.7
    assert 0 < taken[4:].mean() < 0.3


def test_arcee_fusion_takes_the_model_where_nothing_stands_out() -> None:
    column = normal(1, (50, 1))  # a row of one entry has but one softmax
    assert np.array_equal(merge_tensor("arcee_fusion", 0 * column, [column]), column)


PCB_SETTINGS: list[dict[str, float]] = [
    {}, {"ratio": 0.05, "clip": 0.0001}, {"ratio": 1.0, "clip": 0.0}, {"ratio": 0.0},
    {"clip": 0.5, "lambda": 1.5}, {"ratio": 0.4, "lambda": -0.5},
]  # fmt: skip


@pytest.mark.parametrize("block_steps", [1, 2])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_pcb_equals_its_oracle(shape: tuple[int, ...], count: int, block_steps: int) -> None:
    base, models = tuned(shape, count)
    assert_pcb(base, models, {}, block_steps)


@pytest.mark.parametrize("parameters", PCB_SETTINGS)
def test_pcb_equals_its_oracle_under_every_setting(parameters: dict[str, float]) -> None:
    base, models = tuned((70, 80), 4)
    assert_pcb(base, models, parameters)


@pytest.mark.parametrize(
    "deltas",
    [
        [np.zeros((5, 6))] * 2,
        [np.zeros((5, 6)), normal(1, (5, 6))],
        [normal(1, (5, 6)), -normal(1, (5, 6))],
        [np.full((5, 6), 0.25)] * 3,
        [np.sign(normal(seed, (30, 20))) * (normal(seed + 9, (30, 20)) > 0) for seed in range(3)],
        [np.where(normal(seed, (30, 20)) > 1.5, 1e-200, 0.0) for seed in range(2)],
    ],
)
def test_pcb_equals_its_oracle_where_many_values_are_equal(deltas: list[Array]) -> None:
    base = np.ones_like(deltas[0])
    assert_pcb(0 * base, deltas, {})
    assert_pcb(base, [base + delta for delta in deltas], {"ratio": 0.3, "clip": 0.0})


def test_pcb_of_equal_constant_changes_is_that_change() -> None:
    base = np.full((8, 9), 2.0)
    assert np.array_equal(merge_tensor("pcb", base, [base + 0.25] * 3), base + 0.25)


def test_pcb_does_not_depend_on_the_order_of_the_models() -> None:
    base, models = tuned((40, 50), 3)
    one = merge_tensor("pcb", base, models)
    assert np.allclose(merge_tensor("pcb", base, models[::-1]), one, rtol=0, atol=1e-10)


def test_pcb_never_leaves_the_range_of_the_task_vectors() -> None:
    base, models = tuned((40, 50), 3)
    deltas = np.stack([model - base for model in models])
    change = merge_tensor("pcb", base, models) - base
    sizes = np.quantile(np.abs(deltas), 0.011, axis=(1, 2)).max()  # the clip raises the smallest
    assert (change <= np.maximum(deltas.max(axis=0), sizes) + 1e-9).all()
    assert (change >= np.minimum(deltas.min(axis=0), -sizes) - 1e-9).all()
    assert 0.05 < np.mean(change != 0) < 0.3  # a tenth of each of three, overlapping


def assert_pcb(
    base: Array, models: Sequence[Array], parameters: dict[str, float], block_steps: int = 1
) -> None:
    found = merge_tensor("pcb", base, models, block_steps=block_steps, **parameters)
    names = {"lambda": "scale"}
    expected = oracle.pcb(
        base, models, **{names.get(name, name): value for name, value in parameters.items()}
    )
    assert np.isfinite(found).all()
    assert np.allclose(found, expected, rtol=1e-9, atol=1e-10)


NASTY_CASES: dict[str, tuple[str, dict[str, object], Callable[[Models], Array]]] = {
    "arcee_fusion": ("a", {}, lambda m: oracle.arcee_fusion(m["base"], m["a"])),
    "arcee_fusion of another": ("c", {}, lambda m: oracle.arcee_fusion(m["base"], m["c"])),
    "pcb": ("abc", {}, lambda m: oracle.pcb(m["base"], [m[name] for name in "abc"])),
    "pcb of two": (
        "ac", {"ratio": 0.3, "lambda": 0.7},
        lambda m: oracle.pcb(m["base"], [m["a"], m["c"]], 0.3, scale=0.7),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(NASTY_CASES))
def test_a_merge_of_nasty_checkpoints_equals_its_oracle(
    case: str, zoo: Zoo, tmp_path: Path
) -> None:
    models, parameters, expected = NASTY_CASES[case]
    recipe = {
        "merge_method": case.split()[0],
        "base_model": "base",
        "models": [entry(name) for name in models],
        "parameters": parameters,
    }
    merge_nasty(recipe, zoo, tmp_path / "out")
    assert_equals_oracle(tmp_path / "out", every_tensor(zoo, expected), slack=1e-10)


values = st.floats(allow_nan=False, allow_infinity=False, width=64)


@settings(max_examples=60, deadline=None)
@given(numbers=st.lists(values, min_size=1, max_size=40), cut=st.integers(1, 40))
def test_order_statistics_are_those_of_the_sorted_values(numbers: list[float], cut: int) -> None:
    tensor = torch.tensor(numbers, dtype=torch.float64)
    wanted = OrderStatistics(range(len(numbers)))
    for index in range(OrderStatistics.passes):
        for start in range(0, len(numbers), cut):
            wanted.observe(index, tensor[start : start + cut])
        wanted.conclude(index)
    assert wanted.values() == sorted(numbers)


def test_order_statistics_tell_neighbouring_numbers_apart() -> None:
    start = np.float64(1.0)
    numbers = [start]
    for _ in range(9):
        numbers.append(np.nextafter(numbers[-1], 2))
    tensor = torch.tensor(numbers[::-1], dtype=torch.float64)
    wanted = OrderStatistics([0, 4, 9])
    for index in range(OrderStatistics.passes):
        wanted.observe(index, tensor)
        wanted.conclude(index)
    assert wanted.values() == [numbers[0], numbers[4], numbers[9]]


@pytest.mark.parametrize("method", ["arcee_fusion", "pcb"])
def test_threads_and_block_sizes_do_not_change_a_byte(method: str, tmp_path: Path) -> None:
    sources = {}
    for name, seed in {"base": 0, "a": 1, "b": 2}.items():
        tensors = {
            f"layers.{index}.weight": torch.from_numpy(normal(seed, shape)).to(torch.bfloat16)
            for index, shape in enumerate([*SHAPES, (CHUNK,), (CHUNK + 1,), (2, 70_000)])
        }
        sources[name] = write_checkpoint(tmp_path / name, tensors)
    models = [{"model": name} for name in ("a" if method == "arcee_fusion" else "ab")]
    recipe: dict[str, object] = {"merge_method": method, "base_model": "base", "models": models}
    variants: list[dict[str, int]] = [
        {"threads": 1},
        {"threads": 4, "block_elements": 1},
        {"threads": 2, "block_elements": 1 << 22},
    ]
    digests = {
        run_recipe(recipe, sources, tmp_path / f"out-{number}", **variant).object_id
        for number, variant in enumerate(variants)
    }
    assert len(digests) == 1
