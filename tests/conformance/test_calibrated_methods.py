"""Methods that use data, from calibration on disk to the result, against float64 numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from merge_core.checkpoints.sources import describe_source
from merge_core.errors import RecipeError
from merge_core.files.digests import DigestMemo
from merge_core.homes.home import Home
from merge_core.methods.calibrated import pack_gram
from merge_core.operations.execute import execute
from merge_core.operations.merge import merge
from merge_core.planning.plan import make_plan
from merge_core.recipes.loading import parse_recipe
from merge_core.records import SourceCheckpoint
from merge_core.reductions.constants import CHUNK
from merge_core.runtime.compute import Compute
from tests.support.checkpoints import write_checkpoint

Array = NDArray[np.float64]
Values = dict[str, Array]

MATRIX, WIDE, FLAT, NORM = "layers.0.w", "layers.1.w", "layers.0.c", "norm.w"
SHAPES = {MATRIX: (7, 5), WIDE: (4, 9), FLAT: (6, 6), NORM: (CHUNK + 77,)}
"""FLAT is stored (in x out), as GPT-2 has it, and square, so that its shape does not tell."""
WEIGHTS = (1.0, 0.25, 2.0)
ALL = ("fisher", "regmean", "lm_cocktail")


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def model(seed: int) -> Values:
    return {
        name: normal(seed * 100 + index, *shape)
        for index, (name, shape) in enumerate(SHAPES.items())
    }


def gram(seed: int, size: int, rows: int = 40) -> Array:
    inputs = normal(seed, rows, size) * np.linspace(0.1, 3, size)
    return inputs.T @ inputs / rows


MODELS = {name: model(seed) for seed, name in enumerate("abc")}
FISHERS = {
    name: {key: normal(50 + seed, *shape) ** 2 for key, shape in SHAPES.items()}
    for seed, name in enumerate("abc")
}
GRAMS = {
    name: {MATRIX: gram(seed, 5), WIDE: gram(10 + seed, 9), FLAT: gram(20 + seed, 6)}
    for seed, name in enumerate("abc")
}
LOSSES = {"a": 2.5, "b": 3.75, "c": 2.0}


def stored_grams(grams: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    return {
        name: pack_gram(torch.from_numpy(each), axis=0 if name == FLAT else 1)
        for name, each in grams.items()
    }


class Bench:
    """Models and what was measured of them, on disk, and merges of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.count = 0

    def merged(
        self,
        method: str,
        models: Sequence[tuple[Values, Mapping[str, torch.Tensor], float]],
        *,
        block: int | None = None,
        **parameters: float,
    ) -> Values:
        """The result of a method on (model, what was measured of it, weight)."""
        self.count += 1
        sources, measured, entries = {}, {}, []
        for index, (values, statistics, weight) in enumerate(models):
            name = f"m{index}"
            place = self.root / f"{self.count}-{name}"
            sources[name] = write_checkpoint(place, as_tensors(values))
            measured[name] = written(self.root / f"{self.count}-{name}-measured", statistics)
            own = {} if method == "lm_cocktail" else {"weight": weight}
            entries.append({"model": name, "parameters": own})
        recipe = parse_recipe(
            {
                "merge_method": method,
                "models": entries,
                "parameters": parameters,
                "calibration": {"data": "data.jsonl"},
            }
        )
        out = self.root / f"{self.count}-out"
        plan = make_plan(recipe, sources, calibration=measured)
        home = Home(self.root / "home")
        execute(plan, sources, home=home, out=out, compute=Compute(threads=2, block_elements=block))
        return {name: each.numpy() for name, each in load_file(out / "model.safetensors").items()}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def as_tensors(values: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(each.copy()) for name, each in values.items()}


def written(directory: Path, tensors: Mapping[str, torch.Tensor]) -> SourceCheckpoint:
    directory.mkdir()
    save_file(dict(tensors), directory / "model.safetensors")
    return describe_source(directory.name, directory, DigestMemo(None))


def fisher_inputs(
    order: str = "abc",
) -> list[tuple[Values, Mapping[str, torch.Tensor], float]]:
    return [(MODELS[name], as_tensors(FISHERS[name]), WEIGHTS["abc".index(name)]) for name in order]


def gram_inputs(order: str = "abc") -> list[tuple[Values, Mapping[str, torch.Tensor], float]]:
    return [(MODELS[name], stored_grams(GRAMS[name]), WEIGHTS["abc".index(name)]) for name in order]


def loss_inputs(order: str = "abc") -> list[tuple[Values, Mapping[str, torch.Tensor], float]]:
    return [(MODELS[name], {"*": torch.tensor([LOSSES[name]]).double()}, 1.0) for name in order]


INPUTS = {"fisher": fisher_inputs, "regmean": gram_inputs, "lm_cocktail": loss_inputs}


def mean_of(name: str, weights: Sequence[float] = WEIGHTS) -> Array:
    return np.average([MODELS[each][name] for each in "abc"], axis=0, weights=weights)


def regmean_oracle(name: str, alpha: float, ridge: float) -> Array:
    """The least squares problem itself, solved row by row over stacked inputs."""
    grams = [GRAMS[each][name] for each in "abc"]
    level = ridge * np.diagonal(sum(grams)).mean()
    roots, targets = [], []
    for each, weight, g in zip("abc", WEIGHTS, grams, strict=True):
        shrunk = alpha * g + (1 - alpha) * np.diag(np.diagonal(g)) + level * np.eye(len(g))
        root = np.linalg.cholesky(weight * shrunk).T
        matrix = MODELS[each][name] if name == FLAT else MODELS[each][name].T
        roots.append(root)
        targets.append(root @ matrix)
    found = np.linalg.lstsq(np.vstack(roots), np.vstack(targets), rcond=None)[0]
    return found if name == FLAT else found.T


def test_fisher_weighs_every_element_by_its_own_gradients(bench: Bench) -> None:
    found = bench.merged("fisher", fisher_inputs(), floor=0.05)
    for name in SHAPES:
        fishers = np.stack([FISHERS[each][name] for each in "abc"])
        trust = np.maximum(fishers, 0.05 * fishers.mean())
        trust *= np.array(WEIGHTS).reshape(-1, *[1] * (fishers.ndim - 1))
        values = np.stack([MODELS[each][name] for each in "abc"])
        expected = (trust * values).sum(0) / trust.sum(0)
        np.testing.assert_allclose(found[name], expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("alpha", "ridge"), [(0.9, 1e-6), (1.0, 1e-9), (0.0, 1e-3)])
def test_regmean_solves_the_least_squares_problem_of_the_outputs(
    bench: Bench, alpha: float, ridge: float
) -> None:
    found = bench.merged("regmean", gram_inputs(), alpha=alpha, ridge=ridge)
    for name in (MATRIX, WIDE, FLAT):
        expected = regmean_oracle(name, alpha, ridge)
        np.testing.assert_allclose(found[name], expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(found[NORM], mean_of(NORM), rtol=1e-12, atol=1e-15)


def test_the_diagonal_alone_weighs_each_input_by_its_own_size(bench: Bench) -> None:
    found = bench.merged("regmean", gram_inputs(), alpha=0.0, ridge=1e-12)
    sizes = np.stack([w * np.diagonal(GRAMS[n][WIDE]) for n, w in zip("abc", WEIGHTS, strict=True)])
    values = np.stack([MODELS[each][WIDE] for each in "abc"])
    expected = (sizes[:, None, :] * values).sum(0) / sizes.sum(0)
    np.testing.assert_allclose(found[WIDE], expected, rtol=1e-9)


def test_lm_cocktail_takes_the_softmax_of_the_losses(bench: Bench) -> None:
    for temperature in (5.0, 0.3):
        found = bench.merged("lm_cocktail", loss_inputs(), temperature=temperature)
        odds = np.exp(-np.array(list(LOSSES.values())) / temperature)
        for name in SHAPES:
            np.testing.assert_allclose(found[name], mean_of(name, odds), rtol=1e-12, atol=1e-15)


def test_a_low_temperature_leaves_the_best_model_alone(bench: Bench) -> None:
    found = bench.merged("lm_cocktail", loss_inputs(), temperature=1e-3)
    for name in SHAPES:
        np.testing.assert_allclose(found[name], MODELS["c"][name], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("method", ALL)
def test_identical_models_give_that_model(bench: Bench, method: str) -> None:
    found = bench.merged(
        method, [(MODELS["a"], measured, weight) for _, measured, weight in INPUTS[method]()]
    )
    for name in SHAPES:
        np.testing.assert_allclose(found[name], MODELS["a"][name], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("method", ALL)
def test_one_model_comes_back(bench: Bench, method: str) -> None:
    found = bench.merged(method, INPUTS[method]("b"))
    for name in SHAPES:
        np.testing.assert_allclose(found[name], MODELS["b"][name], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("method", ALL)
def test_equal_measurements_give_the_weighted_mean(bench: Bench, method: str) -> None:
    (_, shared, _), *_ = INPUTS[method]("c")
    found = bench.merged(
        method, [(values, shared, weight) for values, _, weight in INPUTS[method]()]
    )
    weights = (1, 1, 1) if method == "lm_cocktail" else WEIGHTS
    for name in SHAPES:
        np.testing.assert_allclose(found[name], mean_of(name, weights), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ALL)
def test_the_order_of_the_models_means_nothing(bench: Bench, method: str) -> None:
    one, other = (bench.merged(method, INPUTS[method](order)) for order in ("abc", "cab"))
    for name in SHAPES:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ALL)
def test_block_sizes_change_no_bit(bench: Bench, method: str) -> None:
    one, other = (bench.merged(method, INPUTS[method](), block=size) for size in (1, 1 << 22))
    for name in SHAPES:
        assert one[name].tobytes() == other[name].tobytes()


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_a_tensor_that_was_not_measured_of_every_model_takes_the_mean(
    bench: Bench, method: str
) -> None:
    inputs = INPUTS[method]()
    lacking = {name: each for name, each in inputs[1][1].items() if name != MATRIX}
    found = bench.merged(method, [inputs[0], (inputs[1][0], lacking, inputs[1][2]), inputs[2]])
    np.testing.assert_allclose(found[MATRIX], mean_of(MATRIX), rtol=1e-12, atol=1e-15)
    assert np.abs(found[WIDE] - mean_of(WIDE)).max() > 0.01


def test_elements_without_any_gradient_take_the_mean(bench: Bench) -> None:
    inputs = fisher_inputs()
    for _, measured, _ in inputs:
        measured[MATRIX][2:4] = 0
        measured[WIDE].zero_()
    found = bench.merged("fisher", inputs)
    np.testing.assert_allclose(found[MATRIX][2:4], mean_of(MATRIX)[2:4], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found[WIDE], mean_of(WIDE), rtol=1e-12, atol=1e-15)
    assert np.abs(found[MATRIX][:2] - mean_of(MATRIX)[:2]).max() > 0.01


def test_inputs_that_no_model_ever_saw_take_the_mean(bench: Bench) -> None:
    """A sum of Gram matrices without full rank has no inverse; nor has one that is all zero."""
    inputs = gram_inputs()
    for _, measured, _ in inputs:
        square = measured[WIDE][1:].view(9, 9)
        square[3, :] = square[:, 3] = 0
        measured[MATRIX][1:] = 0
    found = bench.merged("regmean", inputs)
    np.testing.assert_allclose(found[WIDE][:, 3], mean_of(WIDE)[:, 3], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found[MATRIX], mean_of(MATRIX), rtol=1e-12, atol=1e-15)


def test_regmean_is_nearer_to_every_models_outputs_than_the_mean(bench: Bench) -> None:
    found = bench.merged("regmean", gram_inputs(), alpha=1.0, ridge=1e-9)

    def distance(name: str, merged: Array) -> float:
        total = 0.0
        for each, weight in zip("abc", WEIGHTS, strict=True):
            away = merged - MODELS[each][name]
            total += weight * float(np.trace(away @ GRAMS[each][name] @ away.T))
        return total

    for name in (MATRIX, WIDE):
        best = distance(name, found[name])
        assert best < 0.97 * distance(name, mean_of(name))
        for seed in range(5):
            nearby = found[name] + 1e-3 * normal(seed, *found[name].shape)
            assert distance(name, nearby) > best


def recipe_of(**changes: object) -> dict[str, object]:
    return {
        "merge_method": "fisher",
        "models": [{"model": "a"}, {"model": "b"}],
        "calibration": {"data": "data.jsonl"},
        **changes,
    }


def test_a_merge_without_measurements_is_refused(tmp_path: Path) -> None:
    sources = {name: write_checkpoint(tmp_path / name, as_tensors(MODELS[name])) for name in "ab"}
    with pytest.raises(RecipeError, match="needs measurements of 'a'"):
        merge(parse_recipe(recipe_of()), sources, home=Home(tmp_path), check=False)


def test_a_plan_to_look_at_needs_no_measurements(tmp_path: Path) -> None:
    sources = {name: write_checkpoint(tmp_path / name, as_tensors(MODELS[name])) for name in "ab"}
    plan = make_plan(parse_recipe(recipe_of()), sources)
    assert {tensor.method for tensor in plan.tensors} == {"fisher"}


def test_other_measurements_are_another_plan(tmp_path: Path) -> None:
    sources = {name: write_checkpoint(tmp_path / name, as_tensors(MODELS[name])) for name in "ab"}
    first = {name: written(tmp_path / f"f{name}", as_tensors(FISHERS[name])) for name in "ab"}
    second = {**first, "b": written(tmp_path / "again", as_tensors(FISHERS["c"]))}
    recipe = parse_recipe(recipe_of())
    plans = {make_plan(recipe, sources, calibration=each).digest for each in (first, second, None)}
    assert len(plans) == 3


EARLIER = recipe_of(name="first")
MISTAKES: dict[str, tuple[dict[str, object], str]] = {
    "no data": (recipe_of(calibration=None), "calibration: fisher measures the models on data"),
    "data for nothing": (recipe_of(merge_method="linear"), "calibration: linear uses no data"),
    "an unknown key": (recipe_of(calibration={"file": "x"}), "calibration.file: unknown key"),
    "no samples": (recipe_of(calibration={"data": "x", "samples": 0}), "calibration.samples"),
    "a vocabulary that moves": (
        recipe_of(base_model="a", tokenizer_source="union"),
        "tokenizer_source: what fisher measures",
    ),
    "weights of zero": (
        recipe_of(models=[{"model": "a", "parameters": {"weight": 0}}]),
        "all weights are 0",
    ),
    "a model that is nowhere on disk": (
        recipe_of(recipes=[EARLIER], models=[{"model": "first"}, {"model": "c"}]),
        "'first' is another recipe's result",
    ),
    "two measurements of one model": (
        recipe_of(
            merge_method="regmean",
            base_model="first",
            recipes=[EARLIER],
            models=[{"model": "a"}, {"model": "c"}],
        ),
        "two documents measure 'a', in different ways",
    ),
}


@pytest.mark.parametrize("mistake", sorted(MISTAKES))
def test_a_recipe_that_cannot_be_measured_is_refused(mistake: str) -> None:
    recipe, message = MISTAKES[mistake]
    with pytest.raises(RecipeError) as caught:
        parse_recipe(recipe)
    assert message in str(caught.value)


def test_a_recipe_with_a_calibration_reads_back_from_its_yaml() -> None:
    recipe = parse_recipe(recipe_of(calibration={"data": "x.jsonl", "samples": 5, "seed": 3}))
    again = parse_recipe(recipe.to_yaml())
    assert again == recipe
    assert again.digest == recipe.digest
