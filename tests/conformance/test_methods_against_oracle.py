"""Every method equals a float64 oracle to half a unit of the stored dtype plus 1e-6 relative."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from merge_core.methods.parts.random_bits import keep_mask, random_keys
from tests.conformance import oracle
from tests.conformance.nasty import (
    NAMES,
    Oracle,
    Zoo,
    assert_equals_oracle,
    entry,
    every_tensor,
    merge_nasty,
    values,
)
from tests.support.checkpoints import run_recipe, write_checkpoint

CASES: dict[str, tuple[dict[str, object], Oracle]] = {
    "linear": (
        {"models": [entry("a", weight=0.3), entry("b", weight=0.9), entry("c", weight=-0.1)]},
        lambda m: oracle.linear([m["a"], m["b"], m["c"]], [0.3, 0.9, -0.1]),
    ),
    "linear, not normalised": (
        {"models": [entry("a", weight=0.3), entry("b", weight=0.9)],
         "parameters": {"normalize": False}},
        lambda m: oracle.linear([m["a"], m["b"]], [0.3, 0.9], normalize=False),
    ),
    "linear, uniform, with an unlisted base": (
        {"base_model": "base", "models": [entry("a"), entry("b"), entry("c")]},
        lambda m: oracle.linear([m["a"], m["b"], m["c"]], [1, 1, 1]),
    ),
    "linear with the base as a member": (
        {"base_model": "base", "models": [entry("base", weight=3), entry("a", weight=1)]},
        lambda m: oracle.linear([m["base"], m["a"]], [3, 1]),
    ),
    "slerp": (
        {"base_model": "base", "models": [entry("a")], "parameters": {"t": 0.37}},
        lambda m: oracle.slerp(m["base"], m["a"], 0.37),
    ),
    "slerp at the base": (
        {"base_model": "base", "models": [entry("base"), entry("a")], "parameters": {"t": 0}},
        lambda m: m["base"],
    ),
    "slerp at the model": (
        {"base_model": "base", "models": [entry("a")], "parameters": {"t": 1}},
        lambda m: m["a"],
    ),
    "passthrough": (
        {"models": [entry("a", scale=-1.7)]},
        lambda m: -1.7 * m["a"],
    ),
    "task_arithmetic": (
        {"base_model": "base", "models": [entry("a", weight=0.5), entry("b", weight=0.4)]},
        lambda m: oracle.add_task_vectors(
            m["base"], [m["a"] - m["base"], m["b"] - m["base"]], [0.5, 0.4],
            consensus=False, normalize=False),
    ),
    "task_arithmetic with removal, lambda and normalize": (
        {"base_model": "base",
         "models": [entry("base"), entry("a", weight=0.8), entry("b", weight=-0.3)],
         "parameters": {"lambda": 0.7, "normalize": True}},
        lambda m: oracle.add_task_vectors(
            m["base"], [m["a"] - m["base"], m["b"] - m["base"]], [0.8, -0.3],
            consensus=False, normalize=True, scale=0.7),
    ),
    "task_arithmetic whose weights cancel": (
        {"base_model": "base", "models": [entry("a", weight=0.5), entry("b", weight=-0.5)],
         "parameters": {"normalize": True}},
        lambda m: oracle.add_task_vectors(
            m["base"], [m["a"] - m["base"], m["b"] - m["base"]], [0.5, -0.5],
            consensus=False, normalize=True),
    ),
    "ties": (
        {"base_model": "base",
         "models": [entry("a", weight=0.5, density=0.2), entry("b", weight=0.5, density=0.33),
                    entry("c", weight=0.25, density=0.7)]},
        lambda m: oracle.add_task_vectors(
            m["base"],
            [oracle.trim(m["a"] - m["base"], 0.2), oracle.trim(m["b"] - m["base"], 0.33),
             oracle.trim(m["c"] - m["base"], 0.7)],
            [0.5, 0.5, 0.25], consensus=True, normalize=True),
    ),
    "ties at density 1": (
        {"base_model": "base", "models": [entry("a", weight=1), entry("b", weight=1)]},
        lambda m: oracle.add_task_vectors(
            m["base"], [m["a"] - m["base"], m["b"] - m["base"]], [1, 1],
            consensus=True, normalize=True),
    ),
    "ties at a density of almost nothing": (
        {"base_model": "base", "models": [entry("a", weight=1), entry("b", weight=0.5)],
         "parameters": {"density": 1e-9}},
        lambda m: oracle.add_task_vectors(
            m["base"],
            [oracle.trim(m["a"] - m["base"], 1e-9), oracle.trim(m["b"] - m["base"], 1e-9)],
            [1, 0.5], consensus=True, normalize=True),
    ),
    "ties, rescaled, negative weight, not normalised": (
        {"base_model": "base", "models": [entry("a", weight=1), entry("b", weight=-0.5)],
         "parameters": {"density": 0.4, "rescale": True, "normalize": False, "lambda": 0.9}},
        lambda m: oracle.add_task_vectors(
            m["base"],
            [oracle.match_l1(m[x] - m["base"], oracle.trim(m[x] - m["base"], 0.4)) for x in "ab"],
            [1, -0.5], consensus=True, normalize=False, scale=0.9),
    ),
    "dare_linear at density 1": (
        {"base_model": "base", "models": [entry("a", weight=0.6), entry("b", weight=0.6)]},
        lambda m: oracle.add_task_vectors(
            m["base"], [m["a"] - m["base"], m["b"] - m["base"]], [0.6, 0.6],
            consensus=False, normalize=False),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(CASES))
def test_a_deterministic_method_equals_its_oracle(case: str, zoo: Zoo, tmp_path: Path) -> None:
    recipe, expected = CASES[case]
    merge_nasty({"merge_method": case.split(",")[0].split()[0], **recipe}, zoo, tmp_path / "out")
    assert_equals_oracle(tmp_path / "out", every_tensor(zoo, expected))


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("rescale", ["l1", "l2", "inverse_density", "none"])
def test_dare_equals_its_oracle_under_the_same_mask(
    method: str, rescale: str, zoo: Zoo, tmp_path: Path
) -> None:
    recipe = {
        "merge_method": method,
        "base_model": "base",
        "models": [entry("a", weight=0.7, density=0.3), entry("b", weight=0.5, density=0.6)],
        "parameters": {"rescale": rescale},
        "seed": 7,
    }
    merge_nasty(recipe, zoo, tmp_path / "out")
    loaded = {name: values(zoo, name) for name in NAMES}
    exact = {}
    for key, base in loaded["base"].items():
        deltas = []
        for name, density in (("a", 0.3), ("b", 0.6)):
            delta = loaded[name][key] - base
            random = random_keys("7", method, zoo[name].digest, "0")(key)
            mask = keep_mask(random, 0, delta.size, density, torch.device("cpu"))
            kept = delta * mask.numpy().reshape(delta.shape)
            norm = {"l1": lambda x: np.abs(x).sum(), "l2": lambda x: np.sqrt((x * x).sum())}
            if rescale in norm:
                before, after = norm[rescale](delta), norm[rescale](kept)
                kept = kept * (before / after if min(before, after) >= 1e-7 else 1.0)
            elif rescale == "inverse_density":
                kept = kept / density
            deltas.append(kept)
        exact[key] = oracle.add_task_vectors(
            base, deltas, [0.7, 0.5], consensus=method == "dare_ties", normalize=False
        )
    assert_equals_oracle(tmp_path / "out", exact)


def test_parameters_follow_gradients_and_filters(zoo: Zoo, tmp_path: Path) -> None:
    weight = [
        {"filter": "ties", "value": 2.0},
        {"filter": "vector", "value": [0, 1]},
        {"value": 0.5},
    ]
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [entry("a", weight=weight), entry("b", weight=[0.0, 1.0])],
    }
    merge_nasty(recipe, zoo, tmp_path / "out")
    loaded = {name: values(zoo, name) for name in NAMES}
    depth = {"layers.1.": 0.5, "layers.2.": 1.0}
    exact = {}
    for key, base in loaded["base"].items():
        b = next((value for prefix, value in depth.items() if key.startswith(prefix)), 0.0)
        a = 2.0 if "ties" in key else b if "vector" in key else 0.5
        deltas = [loaded["a"][key] - base, loaded["b"][key] - base]
        exact[key] = oracle.add_task_vectors(base, deltas, [a, b], consensus=False, normalize=False)
    assert_equals_oracle(tmp_path / "out", exact)


def test_out_dtype_is_what_is_stored(zoo: Zoo, tmp_path: Path) -> None:
    recipe = {"merge_method": "linear", "models": [entry("a"), entry("b")], "dtype": "float32"}
    merge_nasty(recipe | {"out_dtype": "bfloat16"}, zoo, tmp_path / "out")
    exact = every_tensor(zoo, lambda m: oracle.linear([m["a"], m["b"]], [1, 1]))
    assert_equals_oracle(tmp_path / "out", exact, torch.bfloat16)


def test_dare_keeps_task_arithmetic_in_expectation(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(200_000, generator=generator)
    zoo = {
        "base": write_checkpoint(tmp_path / "base", {"w": torch.zeros(200_000)}),
        "a": write_checkpoint(tmp_path / "a", {"w": delta}),
    }
    total = torch.zeros(200_000, dtype=torch.float64)
    kept = []
    for seed in range(20):
        recipe = {
            "merge_method": "dare_linear",
            "base_model": "base",
            "models": [entry("a", weight=1.0, density=0.25)],
            "parameters": {"rescale": "inverse_density"},
            "seed": seed,
        }
        run_recipe(recipe, zoo, tmp_path / f"out-{seed}")
        merged = load_file(tmp_path / f"out-{seed}" / "model.safetensors")["w"]
        kept.append((merged != 0).to(torch.float64))
        total += merged
    error = total / 20 - delta
    assert abs(float(error.mean())) < 4 * float(error.std()) / 200_000**0.5
    assert float(error.std()) == pytest.approx((3 / 20) ** 0.5, rel=0.02)
    rates = torch.stack(kept).mean(dim=1)
    assert rates.sub(0.25).abs().max() < 5 * (0.25 * 0.75 / 200_000) ** 0.5
    correlation = torch.corrcoef(torch.stack(kept))
    assert correlation.fill_diagonal_(0).abs().max() < 5 / 200_000**0.5
