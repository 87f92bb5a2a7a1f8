"""Adapters merged into one adapter are the merge of their products, and never of A and B apart."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_core.checkpoints.adapters import open_adapter
from merge_core.checkpoints.sources import open_source
from merge_core.errors import (
    MergeflowError,
    OutputError,
)
from merge_core.methods import METHODS
from tests.conformance.adapter_bench import Q0, Q1, Q2, SHAPES, UP, Bench
from tests.conformance.test_adapters import applied, read_all
from tests.support.adapters import write_adapter
from tests.support.checkpoints import write_checkpoint


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Adapters of different ranks, alphas, scalings and modules."""
    made = Bench(tmp_path)
    made.add("one", 2, seed=1, lora_alpha=5)
    made.add("two", 3, seed=2, lora_alpha=4, use_rslora=True)
    made.add("three", 1, seed=3, modules=(Q1, UP))
    return made


def assert_close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-6) -> None:
    """Equal to float32 rounding of the factors."""
    scale = max(float(wanted.abs().max()), 1e-6)
    assert float((found - wanted).abs().max()) <= tolerance * scale


WEIGHTS = {"one": 0.7, "two": -0.3, "three": 1.2}


@pytest.mark.parametrize("space", ["concat", "core"])
def test_task_arithmetic_is_the_weighted_sum_of_the_products(bench: Bench, space: str) -> None:
    manifest = bench.merge(
        "task_arithmetic",
        {name: {"weight": weight} for name, weight in WEIGHTS.items()},
        parameters={"lambda": 0.8},
        space=space,
    )
    found = bench.merged()
    for module in SHAPES:
        wanted = 0.8 * sum(w * bench.delta(name, module) for name, w in WEIGHTS.items())
        assert_close(found[module], wanted)
    assert manifest.space == space
    assert manifest.error == 0.0


@pytest.mark.parametrize("space", ["concat", "core"])
def test_linear_divides_by_the_sum_of_all_weights(bench: Bench, space: str) -> None:
    weights = {"one": 1.0, "two": 2.0, "three": 5.0}
    bench.merge("linear", {n: {"weight": w} for n, w in weights.items()}, space=space)
    found = bench.merged()
    for module in SHAPES:
        wanted = sum(w * bench.delta(n, module) for n, w in weights.items()) / 8
        assert_close(found[module], wanted)


def test_gradients_and_filters_weigh_each_module_as_the_recipe_says(bench: Bench) -> None:
    weight = [{"filter": "q_proj", "value": [0.0, 1.0]}, {"value": 3.0}]
    bench.merge("task_arithmetic", {"one": {"weight": weight}, "two": {"weight": 1.0}})
    found = bench.merged()
    for module, factor in ((Q0, 0.0), (Q1, 0.5), (Q2, 1.0), (UP, 3.0)):
        wanted = factor * bench.delta("one", module) + bench.delta("two", module)
        assert_close(found[module], wanted)


def test_merging_the_factors_apart_would_be_something_else(bench: Bench) -> None:
    made = bench.add("four", 2, seed=9, lora_alpha=2)
    bench.merge("linear", {"one": {"weight": 0.5}, made: {"weight": 0.5}})
    (ours, s), (theirs, t) = bench.factors["one"], bench.factors[made]
    a = (ours[Q0][0] + theirs[Q0][0]).double() / 2
    b = (s * ours[Q0][1] + t * theirs[Q0][1]).double() / 2
    assert float((bench.merged()[Q0] - b @ a).norm()) > 0.1


def test_stacked_ranks_add_up_and_absent_modules_take_no_room(bench: Bench) -> None:
    manifest = bench.merge("linear", {name: {"weight": 1.0} for name in WEIGHTS})
    assert {row.module: row.rank for row in manifest.modules} == {Q0: 5, Q1: 6, Q2: 5, UP: 6}
    read = open_adapter(bench.place / "out")
    assert {pair.module: (pair.rank, pair.scaling) for pair in read.pairs} == {
        Q0: (5, 1.0),
        Q1: (6, 1.0),
        Q2: (5, 1.0),
        UP: (6, 1.0),
    }


ADAPTER = st.fixed_dictionaries(
    {
        "rank": st.integers(1, 10),
        "lora_alpha": st.floats(-4, 40).filter(lambda alpha: abs(alpha) > 0.01),
        "use_rslora": st.booleans(),
        "modules": st.sets(st.sampled_from(list(SHAPES)), min_size=1),
        "weight": st.floats(-2, 2),
    }
)


@settings(max_examples=25, deadline=None)
@given(drawn=st.lists(ADAPTER, min_size=1, max_size=4))
def test_any_weighted_sum_of_adapters_is_exact_in_both_spaces(
    drawn: list[dict[str, Any]],
) -> None:
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place))
        weights = {}
        for seed, each in enumerate(drawn):
            options = dict(each)
            weight, modules = options.pop("weight"), tuple(sorted(options.pop("modules")))
            name = bench.add(f"a{seed}", options.pop("rank"), seed=seed, modules=modules, **options)
            weights[name] = {"weight": weight}
        for space in ("concat", "core"):
            bench.merge("task_arithmetic", weights, space, space=space)
            for module, values in bench.merged(space).items():
                parts = [w["weight"] * bench.delta(n, module) for n, w in weights.items()]
                largest = max(float(part.abs().max()) for part in parts)
                assert float((values - sum(parts)).abs().max()) <= 1e-5 * largest + 1e-12


def paper_core_space(
    products: list[tuple[torch.Tensor, torch.Tensor] | None],
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """U_B, V_A and the cores M_i = U_B^T B_i A_i V_A, as the paper writes them."""
    present = [product for product in products if product is not None]
    u, _, _ = torch.linalg.svd(torch.hstack([b for b, _ in present]), full_matrices=False)
    _, _, vh = torch.linalg.svd(torch.vstack([a for _, a in present]), full_matrices=False)
    zero = torch.zeros(u.shape[1], vh.shape[0], dtype=torch.float64)
    return u, vh, [u.T @ p[0] @ p[1] @ vh.T if p else zero for p in products]


def ties(deltas: list[torch.Tensor], weights: list[float], density: float) -> torch.Tensor:
    """TIES of flat float64 vectors: trim, elect by the sum, average those that agree by weight."""
    trimmed = []
    for delta in deltas:
        keep = max(1, int(density * delta.numel()))
        order = sorted(range(delta.numel()), key=lambda i: (-abs(float(delta.view(-1)[i])), i))
        mask = torch.zeros(delta.numel(), dtype=torch.bool)
        mask[order[:keep]] = True
        trimmed.append(torch.where(mask.view(delta.shape), delta, torch.zeros_like(delta)))
    weighted = [w * delta for w, delta in zip(weights, trimmed, strict=True)]
    sign = torch.where(sum(weighted) >= 0, 1.0, -1.0).double()
    agree = [(delta.sign() == sign) & (delta != 0) for delta in weighted]
    total = sum(
        torch.where(a, d, torch.zeros_like(d)) for a, d in zip(agree, weighted, strict=True)
    )
    share = sum(a.double() * w for a, w in zip(agree, weights, strict=True))
    return torch.where(share.abs() > 1e-8, total / torch.where(share == 0, 1.0, share), total * 0)


def test_ties_in_core_space_is_ties_of_the_papers_cores(bench: Bench) -> None:
    weights = {"one": 1.0, "two": 0.6, "three": 0.5}
    manifest = bench.merge(
        "ties", {name: {"weight": w, "density": 0.6} for name, w in weights.items()}
    )
    assert manifest.space == "core"
    found = bench.merged()
    for module in SHAPES:
        products = []
        for name in weights:
            factors, scaling = bench.factors[name]
            a, b = factors.get(module, (None, None))
            products.append(None if a is None else (scaling * b.double(), a.double()))
        u, vh, cores = paper_core_space(products)
        wanted = u @ ties(cores, list(weights.values()), 0.6) @ vh
        assert_close(found[module], wanted, 1e-5)


@pytest.mark.parametrize("method", ["ties", "task_arithmetic", "linear", "sce", "magmax", "emr"])
def test_one_adapter_merged_alone_is_that_adapter(bench: Bench, method: str) -> None:
    own = {"weight": 1.0} if method in ("ties", "task_arithmetic", "linear") else {}
    parameters = {"lambda": 1.0} if method == "magmax" else {}
    bench.merge(method, {"two": own}, parameters=parameters, space="core")
    for module, values in bench.merged().items():
        assert_close(values, bench.delta("two", module))


def test_the_order_of_the_adapters_changes_nothing_in_core_space(bench: Bench) -> None:
    own = {"weight": 1.0, "density": 0.5}
    bench.merge("ties", dict.fromkeys(["one", "two", "three"], own), "ahead")
    bench.merge("ties", dict.fromkeys(["three", "two", "one"], own), "back")
    ahead, back = bench.merged("ahead"), bench.merged("back")
    for module in SHAPES:
        assert_close(ahead[module], back[module])


def test_every_method_that_needs_no_more_runs_in_core_space(bench: Bench) -> None:
    skipped = {}
    for method in METHODS.values():
        if method.calibration is not None:
            continue
        names = ["one", "two", "three"][: method.most_models or 3]
        own = {p.name: 0.5 for p in method.per_model() if p.default is None}
        overall = {p.name: 0.5 for p in method.recipe_wide() if p.default is None}
        try:
            bench.merge(
                method.name,
                dict.fromkeys(names, own),
                f"by-{method.name}",
                overall,
                space="core",
                recipe={"base_model": "some/base"} if method.base == "required" else {},
            )
        except MergeflowError as error:
            skipped[method.name] = str(error)
            continue
        for values in bench.merged(f"by-{method.name}").values():
            assert bool(torch.isfinite(values).all()), method.name
    assert not skipped


def test_the_same_merge_gives_the_same_bytes(bench: Bench) -> None:
    own = {"weight": 1.0, "density": 0.5}
    models = dict.fromkeys(["one", "two"], own)
    first = bench.merge("dare_ties", models, "first")
    second = bench.merge("dare_ties", models, "second")
    other = bench.merge("dare_ties", models, "other", recipe={"seed": 5})
    assert first.digest == second.digest != other.digest


@pytest.mark.parametrize("space", ["concat", "core"])
def test_a_rank_cuts_to_the_nearest_product_and_tells_the_error(bench: Bench, space: str) -> None:
    manifest = bench.merge(
        "task_arithmetic", {n: {"weight": w} for n, w in WEIGHTS.items()}, rank=2, space=space
    )
    found = bench.merged()
    lost = total = 0.0
    for row in manifest.modules:
        full = sum(w * bench.delta(name, row.module) for name, w in WEIGHTS.items())
        u, s, vh = torch.linalg.svd(full, full_matrices=False)
        assert_close(found[row.module], u[:, :2] * s[:2] @ vh[:2])
        assert row.norm == pytest.approx(float(full.norm()), rel=1e-9)
        assert row.error == pytest.approx(float(s[2:].norm() / s.norm()), rel=1e-6)
        lost, total = lost + float(s[2:].norm()) ** 2, total + float(s.norm()) ** 2
    assert manifest.error == pytest.approx((lost / total) ** 0.5, rel=1e-6)
    assert {row.rank for row in manifest.modules} == {2}


def test_the_directory_checks_itself_and_nothing_is_left_beside_it(bench: Bench) -> None:
    before = {path.name for path in bench.place.iterdir()}
    bench.merge("linear", {"one": {"weight": 1.0}, "two": {"weight": 1.0}})
    out = bench.place / "out"
    assert {path.name for path in bench.place.iterdir()} == before | {"out"}
    assert {path.name for path in out.iterdir()} == {
        "README.md",
        "SHA256SUMS",
        "adapter_config.json",
        "adapter_model.safetensors",
        "mergeflow_adapter.json",
    }
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=out, check=True)
    card = (out / "README.md").read_text().split("---")[1]
    assert yaml.safe_load(card)["library_name"] == "peft"


def test_a_taken_place_is_left_as_it_is(bench: Bench) -> None:
    (bench.place / "out").mkdir()
    with pytest.raises(OutputError, match="already exists"):
        bench.merge("linear", {"one": {"weight": 1.0}})
    assert not list((bench.place / "out").iterdir())


def test_embeddings_are_merged_like_the_rest(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    name, wanted = "model.embed_tokens", torch.zeros(32, 8, dtype=torch.float64)
    for index in range(2):
        a, b = torch.randn(2, 32), torch.randn(8, 2)
        tensors = {
            f"base_model.model.{name}.lora_embedding_A": a,
            f"base_model.model.{name}.lora_embedding_B": b,
        }
        write_adapter(tmp_path / f"e{index}", {}, tensors=tensors, r=2, lora_alpha=3)
        wanted += 0.5 * 1.5 * (b.double() @ a.double()).T
    bench.merge("linear", {"e0": {"weight": 1.0}, "e1": {"weight": 1.0}})
    base = write_checkpoint(tmp_path / "base", {f"{name}.weight": torch.zeros(32, 8)})
    view = open_source(applied(base, tmp_path / "out"))
    assert_close(read_all(view.tensors[f"{name}.weight"]), wanted)
