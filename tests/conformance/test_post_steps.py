"""Post-steps equal their oracles, and leave alone what they have no business with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from merge_core.errors import RecipeError
from merge_core.methods.base import TensorJob
from merge_core.methods.parameter import Scalar
from merge_core.methods.post_steps import POST_STEPS, post_step_named
from merge_core.tensors.names import layer_of
from tests.conformance import oracle_spectral as oracle
from tests.conformance.nasty import (
    NAMES,
    Zoo,
    assert_equals_oracle,
    entry,
    merge_nasty,
    values,
)
from tests.conformance.oracle import Array
from tests.conformance.test_spectral_against_oracle import TASK_VECTORS, assert_near, normal
from tests.support.checkpoints import run_recipe
from tests.support.kernels import blocks

MERGES = {
    "sum": lambda deltas: np.sum(deltas, axis=0),
    "mean": lambda deltas: np.mean(deltas, axis=0),
    "largest": lambda deltas: np.stack(deltas).max(axis=0),
    "nothing": lambda deltas: np.zeros_like(deltas[0]),
}


def applied(
    step: str,
    merged: Array,
    base: Array,
    models: Sequence[Array],
    settings: Mapping[str, Scalar],
    *,
    depth: float = 0.0,
    in_layers: bool = False,
) -> Array:
    job = TensorJob(
        name="a tensor",
        numel=base.size,
        model_parameters=tuple({} for _ in models),
        parameters={},
        random_keys=(),
        shape=base.shape,
        depth=depth,
        in_layers=in_layers,
    )
    (block,) = blocks(base, models, max(1, base.size))
    flat = torch.from_numpy(merged.reshape(-1).copy())
    return post_step_named(step).apply(flat, block, job, settings).numpy().reshape(base.shape)


@pytest.mark.parametrize("alpha", [1.0, 0.3, 2.0])
@pytest.mark.parametrize("merge", sorted(MERGES))
@pytest.mark.parametrize("kind", sorted(set(TASK_VECTORS) - {"nothing"}))
def test_svc_equals_its_oracle(kind: str, merge: str, alpha: float) -> None:
    deltas = TASK_VECTORS[kind]
    base = np.zeros_like(deltas[0])
    merged = np.asarray(MERGES[merge](deltas))
    found = applied("svc", merged, base, deltas, {"alpha": alpha})
    assert_near(found, oracle.svc(merged, base, deltas, alpha), deltas)


def test_svc_undoes_the_counting_of_one_model_several_times() -> None:
    base, delta = normal(0, 12, 9), normal(1, 12, 9)
    thrice = applied("svc", base + 3 * delta, base, [base + delta] * 3, {"alpha": 1.0})
    assert_near(thrice, base + delta, [delta])


def test_svc_leaves_directions_that_one_model_has_to_itself() -> None:
    u, v = (np.linalg.qr(normal(seed, 8, 8))[0] for seed in (5, 6))
    left = u[:, :4] @ normal(0, 4, 4) @ v[:4]
    right = u[:, 4:] @ normal(1, 4, 4) @ v[4:]  # orthogonal to the other, but for rounding
    base = np.zeros((8, 8))
    merged = base + left + right
    found = applied("svc", merged, base, [base + left, base + right], {"alpha": 1.0})
    assert_near(found, merged, [left, right])


def test_svc_at_alpha_1_makes_no_direction_longer() -> None:
    deltas = TASK_VECTORS["tall"]
    base = np.zeros_like(deltas[0])
    merged = np.sum(deltas, axis=0)
    found = applied("svc", merged, base, deltas, {"alpha": 1.0})
    before, after = (np.linalg.svd(values, compute_uv=False) for values in (merged, found))
    u, _, vt = np.linalg.svd(merged, full_matrices=False)
    assert (np.diag(u.T @ found @ vt.T) <= before + 1e-12).all()
    assert after.sum() < 0.99 * before.sum()


def test_svc_does_not_depend_on_the_order_of_the_models() -> None:
    deltas = TASK_VECTORS["square"]
    base = np.zeros_like(deltas[0])
    merged = np.sum(deltas, axis=0)
    one = applied("svc", merged, base, deltas, {"alpha": 0.5})
    assert_near(applied("svc", merged, base, deltas[::-1], {"alpha": 0.5}), one, deltas)


@pytest.mark.parametrize("shape", [(), (7,), (1, 7), (7, 1), (3, 4, 5)])
def test_svc_leaves_what_is_no_matrix(shape: tuple[int, ...]) -> None:
    base, model = normal(0, *shape) + np.zeros(shape), normal(1, *shape) + np.zeros(shape)
    merged = base + 5 * model
    found = applied("svc", merged, base, [model, model], {"alpha": 1.0})
    assert np.array_equal(found, merged)


@pytest.mark.parametrize("layer", [None, 0, 1, 4])
def test_lines_scales_a_task_vector_by_its_layer(layer: int | None) -> None:
    base, merged = normal(0, 6, 5), normal(1, 6, 5)
    settings = {"alpha": 0.3, "beta": 0.9}
    found = applied(
        "lines", merged, base, [merged], settings,
        depth=0.0 if layer is None else layer / 4, in_layers=layer is not None,
    )  # fmt: skip
    assert_near(found, oracle.lines(merged, base, 0.3, 0.9, layer, 5), [merged])


def test_lines_spares_tensors_outside_the_layers_from_beta() -> None:
    base, merged = normal(0, 9), normal(1, 9)
    settings = {"alpha": 1.0, "beta": 7.0}
    found = applied("lines", merged, base, [merged], settings, depth=1.0, in_layers=False)
    assert_near(found, merged, [merged])


def test_an_unknown_step_is_refused_with_the_closest() -> None:
    with pytest.raises(RecipeError, match=r"unknown post-step 'svd'.*svc"):
        post_step_named("svd", "post[0]")


@pytest.mark.parametrize("name", sorted(POST_STEPS))
def test_every_step_says_what_it_does(name: str) -> None:
    step = POST_STEPS[name]
    assert step.name == name
    assert step.summary
    assert "theta_0" in step.formula()
    assert "arXiv" in step.paper


LAYERS = 3
BOTH: list[dict[str, object]] = [{"svc": {"alpha": 0.8}}, {"lines": {"alpha": 0.4, "beta": 0.5}}]


def with_post(
    method: str, post: list[dict[str, object]], **parameters: object
) -> dict[str, object]:
    return {
        "merge_method": method,
        "base_model": "base",
        "models": [entry(name) for name in "abc"],
        "parameters": parameters,
        "post": post,
    }


def after_both(name: str, merged: Array, base: Array, models: Sequence[Array]) -> Array:
    calibrated = oracle.svc(merged, base, models, 0.8)
    return oracle.lines(calibrated, base, 0.4, 0.5, layer_of(name), LAYERS)


MERGED: dict[str, tuple[dict[str, object], Callable[[Array, list[Array]], Array]]] = {
    "task_arithmetic": ({"weight": 1}, lambda base, models: np.sum(models, axis=0) - 2 * base),
    "star": ({"eta": 0.7}, lambda base, models: oracle.star(base, models, 0.7)),
}


@pytest.mark.parametrize("method", sorted(MERGED))
def test_a_recipes_post_steps_are_applied_in_their_order(
    method: str, zoo: Zoo, tmp_path: Path
) -> None:
    parameters, merge = MERGED[method]
    merge_nasty(with_post(method, BOTH, **parameters), zoo, tmp_path / "out")
    tensors = {name: values(zoo, name) for name in NAMES}
    expected = {}
    for name, base in tensors["base"].items():
        models = [tensors[model][name] for model in "abc"]
        expected[name] = after_both(name, merge(base, models), base, models)
    assert_equals_oracle(tmp_path / "out", expected, slack=1e-9)


@pytest.mark.parametrize("zoo", ["bfloat16"], indirect=True)
@pytest.mark.parametrize("method", ["ties", "della", "model_stock", "knots"])
def test_post_steps_give_the_same_bytes_in_any_blocks(
    method: str, zoo: Zoo, tmp_path: Path
) -> None:
    settings = {"ties": {"weight": 0.5, "density": 0.3}, "della": {"weight": 0.5, "density": 0.5}}
    recipe = with_post(method, BOTH, **settings.get(method, {}))
    variants: list[dict[str, int]] = [
        {"threads": 1},
        {"threads": 2, "block_elements": 1},
        {"threads": 2, "block_elements": 1 << 22},
    ]
    digests = {
        run_recipe(recipe, zoo, tmp_path / f"out-{number}", **variant).object_id
        for number, variant in enumerate(variants)
    }
    assert len(digests) == 1


@pytest.mark.parametrize("zoo", ["float32"], indirect=True)
def test_steps_that_change_nothing_change_nothing(zoo: Zoo, tmp_path: Path) -> None:
    plain = with_post("magmax", [], **{"lambda": 1})
    neutral = with_post("magmax", [{"lines": {"alpha": 1, "beta": 0}}], **{"lambda": 1})
    for name, recipe in (("plain", plain), ("neutral", neutral)):
        merge_nasty(recipe, zoo, tmp_path / name)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "neutral"))
    assert all(torch.equal(one[name], other[name]) for name in one)
