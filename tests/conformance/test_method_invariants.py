"""What must hold for every method that claims it, whatever the numbers are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from merge_core.errors import MergeflowError, RecipeError
from merge_core.methods import METHODS
from merge_core.records import SourceCheckpoint
from tests.conformance.method_cases import CASES
from tests.conformance.nasty import entry
from tests.support.checkpoints import run_recipe, write_checkpoint

Tensors = dict[str, torch.Tensor]

ALONE = {name: case.alone for name, case in CASES.items() if case.alone is not None}
CHANGED_ALONE = [
    name
    for name, method in METHODS.items()
    if name not in ALONE and method.fewest_models == 1 and not method.calibration
]
TWINS = {name: case.twins for name, case in CASES.items() if case.twins is not None}
SYMMETRIC = {
    name: case.in_any_order for name, case in CASES.items() if case.in_any_order is not None
}


def random_tensors(seed: int, size: float = 1.0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"embed.weight": (37, 24), "layers.0.w": (24, 50), "layers.0.b": (50,), "norm": ()}
    return {name: size * torch.randn(s, generator=generator) for name, s in shapes.items()}


def tuned(seed: int) -> Tensors:
    base, delta = random_tensors(0), random_tensors(seed, 0.1)
    return {name: base[name] + delta[name] for name in base}


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SourceCheckpoint]:
    root = tmp_path_factory.mktemp("experts")
    written = {"base": random_tensors(0), "a": tuned(1), "b": tuned(2), "c": tuned(3)}
    written["twin"] = written["a"]
    return {name: write_checkpoint(root / name, tensors) for name, tensors in written.items()}


def merged(
    method: str,
    models: list[dict[str, object]],
    sources: dict[str, SourceCheckpoint],
    out: Path,
    **parameters: object,
) -> Tensors:
    recipe: dict[str, object] = {
        "merge_method": method,
        "models": models,
        "parameters": parameters,
    }
    if METHODS[method].base == "required":
        recipe["base_model"] = "base"
    run_recipe(recipe, sources, out, threads=1)
    return load_file(out / "model.safetensors")


def assert_same(found: Tensors, expected: Tensors, tolerance: float = 1e-7) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        limit = tolerance * (1.0 + float(tensor.abs().max()))
        assert float((found[name] - tensor).abs().max()) <= limit, name


def test_every_method_has_its_case() -> None:
    assert CASES.keys() == METHODS.keys()
    few = {name for name, method in METHODS.items() if method.most_models or method.calibration}
    assert METHODS.keys() - SYMMETRIC.keys() == few


@pytest.mark.parametrize("method", sorted(ALONE))
def test_one_expert_comes_back(
    method: str, experts: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    found = merged(method, [entry("a")], experts, tmp_path / "out", **ALONE[method])
    assert_same(found, tuned(1), tolerance=0)


@pytest.mark.parametrize("method", CHANGED_ALONE)
def test_a_method_without_such_settings_changes_even_one_expert(
    method: str, experts: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    found = merged(method, [entry("a")], experts, tmp_path / "out")
    assert any(not torch.equal(found[name], tensor) for name, tensor in tuned(1).items())


@pytest.mark.parametrize("method", sorted(TWINS))
def test_two_equal_experts_give_that_expert(
    method: str, experts: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    models = [entry("a"), entry("twin")]
    assert_same(merged(method, models, experts, tmp_path / "out", **TWINS[method]), tuned(1))


@pytest.mark.parametrize("method", sorted(SYMMETRIC))
def test_the_order_of_the_models_changes_nothing(
    method: str, experts: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    known = {parameter.name for parameter in METHODS[method].per_model()}
    models = [
        entry(name, **({"weight": weight} if "weight" in known else {}))
        for name, weight in (("a", 0.7), ("b", 0.5), ("c", -0.2))
    ]
    settings = SYMMETRIC[method]
    one = merged(method, models, experts, tmp_path / "one", **settings)
    other = merged(method, models[::-1], experts, tmp_path / "other", **settings)
    assert_same(other, one)


@pytest.mark.parametrize("method", ["ties", "breadcrumbs", "dare_linear", "della_linear"])
def test_rescaling_keeps_the_l1_norm_of_every_tensor(method: str, tmp_path: Path) -> None:
    zeros = {name: torch.zeros_like(tensor) for name, tensor in random_tensors(0).items()}
    sources = {
        "base": write_checkpoint(tmp_path / "base", zeros),
        "a": write_checkpoint(tmp_path / "a", random_tensors(1)),
    }
    settings: dict[str, object] = {"weight": 1, "density": 0.6, "rescale": True, "normalize": False}
    found = merged(method, [entry("a")], sources, tmp_path / "out", **settings)
    for name, tensor in random_tensors(1).items():
        kept = float(found[name].abs().sum())
        assert kept == pytest.approx(float(tensor.abs().sum()), rel=1e-6) or kept == 0, name
        assert tensor.numel() == 1 or 0 < int((found[name] == 0).sum()) < tensor.numel()


def test_model_stock_keeps_the_base_where_experts_are_orthogonal_or_opposed(tmp_path: Path) -> None:
    base = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    left, right = torch.zeros(6, 8), torch.zeros(6, 8)
    left[:, ::2], right[:, 1::2] = 0.5, -0.25
    sources = {
        "base": write_checkpoint(tmp_path / "base", {"w": base, "v": torch.zeros(6, 8)}),
        "a": write_checkpoint(tmp_path / "a", {"w": base + left, "v": left}),
        "b": write_checkpoint(tmp_path / "b", {"w": base + right, "v": -left}),
    }
    for filter_wise in (False, True):
        out = tmp_path / f"out-{filter_wise}"
        models = [entry("a"), entry("b")]
        found = merged("model_stock", models, sources, out, filter_wise=filter_wise)
        assert torch.allclose(found["w"], base, atol=1e-6)
        assert torch.equal(found["v"], torch.zeros(6, 8))


def test_gradients_start_at_the_first_layer_and_end_at_the_last(tmp_path: Path) -> None:
    names = ["embed.weight", "norm.weight", *(f"layers.{index}.w" for index in range(5))]
    sources = {
        "base": write_checkpoint(tmp_path / "base", {name: torch.zeros(4) for name in names}),
        "a": write_checkpoint(tmp_path / "a", {name: torch.ones(4) for name in names}),
    }
    out = tmp_path / "out"
    found = merged("breadcrumbs", [entry("a", weight=[2, 4, 8])], sources, out)
    got = {name: float(tensor[0]) for name, tensor in found.items()}
    assert got == dict(zip(names, [2, 2, 2, 3, 4, 6, 8], strict=True))


def test_the_only_layer_takes_the_end_of_a_gradient(tmp_path: Path) -> None:
    tensors = {"embed.weight": torch.ones(4), "layers.0.w": torch.ones(4)}
    sources = {
        "base": write_checkpoint(tmp_path / "base", {n: t * 0 for n, t in tensors.items()}),
        "a": write_checkpoint(tmp_path / "a", tensors),
    }
    out = tmp_path / "out"
    found = merged("emr", [entry("a")], sources, out, **{"lambda": [0.25, 0.75]})
    assert {name: float(t[0]) for name, t in found.items()} == {
        "embed.weight": 0.25,
        "layers.0.w": 0.75,
    }


@pytest.mark.parametrize("method", ["linear", "multislerp"])
@pytest.mark.parametrize("weights", [(1, -1, 0), (0.1, 0.2, -0.3)])
def test_weights_that_add_up_to_0_are_refused_while_planning(
    method: str,
    weights: tuple[float, ...],
    experts: dict[str, SourceCheckpoint],
    tmp_path: Path,
) -> None:
    models = [entry(name, weight=w) for name, w in zip("abc", weights, strict=True)]
    with pytest.raises(RecipeError, match="add up to 0"):
        merged(method, models, experts, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_directions_that_cancel_are_refused_but_frozen_tensors_are_not(tmp_path: Path) -> None:
    delta = {name: (16 * tensor).round() for name, tensor in random_tensors(1).items()}
    steps = {"base": 0, "a": 1, "mirror": -2, "still": 0, "frozen": 0, "unmoved": 0}
    sources = {
        model: write_checkpoint(tmp_path / model, {n: 7 + step * t for n, t in delta.items()})
        for model, step in steps.items()
    }

    def recipe(*names: str) -> dict[str, object]:
        models = [entry(name, weight=1) for name in names]
        return {"merge_method": "multislerp", "base_model": "base", "models": models}

    with pytest.raises(MergeflowError, match="cancel out"):
        run_recipe(recipe("a", "mirror", "frozen"), sources, tmp_path / "out", threads=1)
    assert not (tmp_path / "out").exists()
    run_recipe(recipe("frozen", "still", "unmoved"), sources, tmp_path / "same", threads=1)
    without_eps = recipe("frozen", "still", "unmoved") | {"parameters": {"eps": 0}}
    run_recipe(without_eps, sources, tmp_path / "eps", threads=1)
    for out in ("same", "eps"):
        for tensor in load_file(tmp_path / out / "model.safetensors").values():
            assert torch.equal(tensor, torch.full_like(tensor, 7))


def test_karcher_of_opposed_models_does_not_leave_them(tmp_path: Path) -> None:
    v = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    sources = {
        name: write_checkpoint(tmp_path / name, {"w": factor * v})
        for name, factor in (("a", 1.0), ("b", -0.3), ("c", 0.7))
    }
    for tolerance in (1e-5, 0):
        out = tmp_path / f"out-{tolerance}"
        models = [entry("a"), entry("b"), entry("c")]
        found = merged("karcher", models, sources, out, tol=tolerance)["w"]
        assert torch.allclose(found, v * (1 + 0.3 + 0.7) / 3, rtol=1e-5, atol=1e-6)
