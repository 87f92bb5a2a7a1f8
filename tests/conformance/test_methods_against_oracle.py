"""Every method equals a float64 oracle to half a unit of the stored dtype plus 1e-6 relative."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from merge_core.methods.random_bits import keep_mask, random_key
from merge_core.records import SourceCheckpoint
from tests.conformance import oracle
from tests.support.checkpoints import run_recipe, write_checkpoint

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
MANTISSA = {torch.bfloat16: 7, torch.float16: 10, torch.float32: 23}
SMALLEST = {torch.bfloat16: 2.0**-133, torch.float16: 2.0**-24, torch.float32: 2.0**-149}
NAMES = ("base", "a", "b", "c")


def tensors(model: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The cases that break merges: ties, zeros, conflicts, vectors, scalars, nothing at all."""
    seed = NAMES.index(model)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.Generator().manual_seed(100)
    base = torch.randn(300, 517, generator=noise)
    delta = 0.05 * torch.randn(300, 517, generator=generator) * (model != "base")
    ternary = torch.randint(-1, 2, (64, 100), generator=generator) * 0.25 * (model != "base")
    conflict = 0.125 * (1 if seed % 2 else -1) * (model != "base") * torch.ones(40, 50)
    return {
        "embed.weight": (base + delta).to(dtype),
        "layers.0.ties.weight": (torch.ones(64, 100) + ternary).to(dtype),
        "layers.0.zeros.weight": torch.zeros(33, 7, dtype=dtype),
        "layers.1.conflict.weight": (torch.ones(40, 50) + conflict).to(dtype),
        "layers.1.vector.bias": torch.randn(1001, generator=generator).to(dtype),
        "layers.2.one.weight": torch.randn(1, generator=generator).to(dtype),
        "layers.2.empty.weight": torch.empty(0, 5, dtype=dtype),
        "layers.2.same.weight": base[:20].to(dtype),
        "norm.scalar": torch.tensor(1.5 + seed).to(dtype),
        "long.weight": torch.cat([(base + delta).ravel()] * 2).to(dtype),
    }


@pytest.fixture(scope="module", params=sorted(DTYPES))
def zoo(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, SourceCheckpoint]:
    root = tmp_path_factory.mktemp(request.param)
    dtype = DTYPES[request.param]
    return {name: write_checkpoint(root / name, tensors(name, dtype)) for name in NAMES}


def entry(model: str, **parameters: object) -> dict[str, object]:
    return {"model": model, "parameters": parameters}


def values(zoo: dict[str, SourceCheckpoint], name: str) -> dict[str, np.ndarray]:
    loaded = load_file(zoo[name].directory / "model.safetensors")
    return {key: tensor.to(torch.float64).numpy() for key, tensor in loaded.items()}


def assert_equals_oracle(
    out: Path, expected: dict[str, np.ndarray], dtype: torch.dtype | None = None
) -> None:
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
        excess = error - (0.5 * unit + 1e-6 * np.abs(exact))
        assert not (excess > 0).any(), f"{name}: off by {error.max()} at {error.argmax()}"


CASES: dict[str, tuple[dict[str, object], object]] = {
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
def test_a_deterministic_method_equals_its_oracle(
    case: str, zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    recipe, expected = CASES[case]
    run_recipe({"merge_method": case.split(",")[0].split()[0], **recipe}, zoo, tmp_path / "out")
    loaded = {name: values(zoo, name) for name in NAMES}
    exact = {
        key: expected({name: loaded[name][key] for name in NAMES})  # type: ignore[operator]
        for key in loaded["base"]
    }
    assert_equals_oracle(tmp_path / "out", exact)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("rescale", ["l1", "l2", "inverse_density", "none"])
def test_dare_equals_its_oracle_under_the_same_mask(
    method: str, rescale: str, zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    recipe = {
        "merge_method": method,
        "base_model": "base",
        "models": [entry("a", weight=0.7, density=0.3), entry("b", weight=0.5, density=0.6)],
        "parameters": {"rescale": rescale},
        "seed": 7,
    }
    run_recipe(recipe, zoo, tmp_path / "out")
    loaded = {name: values(zoo, name) for name in NAMES}
    exact = {}
    for key, base in loaded["base"].items():
        deltas = []
        for name, density in (("a", 0.3), ("b", 0.6)):
            delta = loaded[name][key] - base
            random = random_key("7", method, zoo[name].digest, "0", key)
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


def test_parameters_follow_gradients_and_filters(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
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
    run_recipe(recipe, zoo, tmp_path / "out")
    loaded = {name: values(zoo, name) for name in NAMES}
    depth = {"layers.1.": 0.5, "layers.2.": 1.0}
    exact = {}
    for key, base in loaded["base"].items():
        b = next((value for prefix, value in depth.items() if key.startswith(prefix)), 0.0)
        a = 2.0 if "ties" in key else b if "vector" in key else 0.5
        deltas = [loaded["a"][key] - base, loaded["b"][key] - base]
        exact[key] = oracle.add_task_vectors(base, deltas, [a, b], consensus=False, normalize=False)
    assert_equals_oracle(tmp_path / "out", exact)


def test_out_dtype_is_what_is_stored(zoo: dict[str, SourceCheckpoint], tmp_path: Path) -> None:
    recipe = {"merge_method": "linear", "models": [entry("a"), entry("b")], "dtype": "float32"}
    run_recipe(recipe | {"out_dtype": "bfloat16"}, zoo, tmp_path / "out")
    loaded = {name: values(zoo, name) for name in NAMES}
    exact = {
        key: oracle.linear([loaded["a"][key], loaded["b"][key]], [1, 1]) for key in loaded["base"]
    }
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
