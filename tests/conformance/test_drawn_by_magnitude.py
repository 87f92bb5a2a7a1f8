"""DELLA's random masks: the right probabilities, independent, and right on average."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from merge_core.errors import RecipeError
from merge_core.methods.parts.random_bits import BITS, random_integers, random_keys
from tests.conformance import oracle
from tests.conformance import oracle_task_vectors as vectors
from tests.conformance.nasty import NAMES, Zoo, assert_equals_oracle, entry, merge_nasty, values
from tests.support.checkpoints import run_recipe, write_checkpoint
from tests.support.slow_cases import first_few

ROWS, ROW, SEEDS = 100, 200, 12
DENSITY, EPSILON = 0.4, 0.3


@pytest.mark.parametrize("method", ["della", "della_linear"])
@pytest.mark.parametrize("rescale", first_few(["l1", "none", "l2", "inverse_density"], 2))
def test_della_equals_its_oracle_under_the_same_random_numbers(
    method: str, rescale: str, zoo: Zoo, tmp_path: Path
) -> None:
    settings = {"a": (0.7, 0.3, 0.1), "b": (0.5, 0.6, 0.2)}
    recipe = {
        "merge_method": method,
        "base_model": "base",
        "models": [
            entry(name, weight=weight, density=density, epsilon=epsilon)
            for name, (weight, density, epsilon) in settings.items()
        ],
        "parameters": {"rescale": rescale},
        "seed": 3,
    }
    merge_nasty(recipe, zoo, tmp_path / "out")
    loaded = {name: values(zoo, name) for name in NAMES}
    exact = {}
    for key, base in loaded["base"].items():
        deltas = []
        for name, (_, density, epsilon) in settings.items():
            delta = loaded[name][key] - base
            chances = vectors.keep_probabilities(delta, density, epsilon)
            random = random_keys("3", method, zoo[name].digest, "0")(key)
            draws = random_integers(random, 0, delta.size, torch.device("cpu")).numpy()
            kept = delta * (draws.reshape(delta.shape) < chances * (1 << BITS))
            norms = {"l1": lambda x: np.abs(x).sum(), "l2": lambda x: np.sqrt((x * x).sum())}
            if rescale in norms:
                before, after = norms[rescale](delta), norms[rescale](kept)
                kept = kept * (before / after if min(before, after) >= 1e-7 else 1.0)
            elif rescale == "inverse_density":
                kept = kept / chances
            deltas.append(kept)
        consensus = method == "della"
        exact[key] = oracle.add_task_vectors(
            base, deltas, [0.7, 0.5], consensus=consensus, normalize=consensus
        )
    assert_equals_oracle(tmp_path / "out", exact)


def drawn(method: str, tmp_path: Path, seed: int, **parameters: object) -> torch.Tensor:
    """Task vectors of 1 and of 2 everywhere, added up: 0, 1, 2 or 3 tells who kept an entry."""
    zoo = {}
    for name, value in (("base", 0.0), ("a", 1.0), ("b", 2.0)):
        directory = tmp_path / f"{name}-{seed}"
        zoo[name] = write_checkpoint(directory, {"w": torch.full((ROWS, ROW), value)})
    recipe: dict[str, object] = {
        "merge_method": method,
        "base_model": "base",
        "models": [entry("a"), entry("b")],
        "parameters": {"weight": 1, "density": DENSITY, "rescale": "none", **parameters},
        "seed": seed,
    }
    run_recipe(recipe, zoo, tmp_path / f"out-{seed}")
    return load_file(tmp_path / f"out-{seed}" / "model.safetensors")["w"].to(torch.int64)


def test_an_entry_is_kept_with_the_probability_of_its_rank(tmp_path: Path) -> None:
    merged = torch.stack(
        [drawn("della_linear", tmp_path, seed, epsilon=EPSILON) for seed in range(SEEDS)]
    )
    # equal magnitudes rank by position, so the column is the rank
    rate = ((merged & 1) != 0).to(torch.float64).mean(dim=(0, 1))
    expected = DENSITY - EPSILON + 2 * EPSILON * torch.arange(ROW) / (ROW - 1)
    deviation = (rate - expected) / (expected * (1 - expected) / (SEEDS * ROWS)).sqrt()
    assert deviation.abs().max() < 5
    assert float(deviation.square().mean()) == pytest.approx(1, abs=5 * (2 / ROW) ** 0.5)


@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
def test_masks_of_models_rows_and_seeds_are_independent(method: str, tmp_path: Path) -> None:
    spread = {"epsilon": 0.0} if method == "della_linear" else {}
    merged = [drawn(method, tmp_path, seed, **spread).ravel() for seed in range(6)]
    masks = [(values & bit) != 0 for values in merged for bit in (1, 2)]
    masks += [masks[0].roll(1), masks[0].roll(ROW)]
    correlation = torch.corrcoef(torch.stack(masks).to(torch.float64))
    assert correlation.fill_diagonal_(0).abs().max() < 5 / (ROWS * ROW) ** 0.5


def test_della_keeps_task_arithmetic_in_expectation(tmp_path: Path) -> None:
    delta = torch.randn(ROWS, ROW, generator=torch.Generator().manual_seed(0))
    zoo = {
        "base": write_checkpoint(tmp_path / "base", {"w": torch.zeros(ROWS, ROW)}),
        "a": write_checkpoint(tmp_path / "a", {"w": delta}),
    }
    total = torch.zeros(ROWS, ROW, dtype=torch.float64)
    for seed in range(SEEDS):
        recipe: dict[str, object] = {
            "merge_method": "della_linear",
            "base_model": "base",
            "models": [entry("a", weight=1.0, density=DENSITY, epsilon=EPSILON)],
            "parameters": {"rescale": "inverse_density"},
            "seed": seed,
        }
        run_recipe(recipe, zoo, tmp_path / f"out-{seed}")
        total += load_file(tmp_path / f"out-{seed}" / "model.safetensors")["w"]
    chances = torch.from_numpy(
        vectors.keep_probabilities(delta.to(torch.float64).numpy(), DENSITY, EPSILON)
    )
    error = total / SEEDS - delta
    variance = delta.square() * (1 - chances) / chances / SEEDS
    assert abs(float(error.sum())) < 4 * float(variance.sum()) ** 0.5
    assert float(error.square().sum() / variance.sum()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("density", "epsilon"), [(0.1, 0.1), (0.9, 0.1), (0.5, 0.6)])
def test_probabilities_outside_of_0_and_1_are_refused_while_planning(
    density: float, epsilon: float, zoo: Zoo, tmp_path: Path
) -> None:
    recipe = {
        "merge_method": "della",
        "base_model": "base",
        "models": [entry("a", weight=1.0, density=density, epsilon=epsilon)],
    }
    with pytest.raises(RecipeError, match="probabilities"):
        merge_nasty(recipe, zoo, tmp_path / "out")
    assert not (tmp_path / "out").exists()
