"""What the mathematics of the spectral methods promise, whatever the numbers are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from merge_core.methods import METHODS
from merge_core.methods.parameter import Scalar
from merge_core.methods.spectral.algebra import polar_factor, singular_triples
from tests.conformance.oracle import Array
from tests.conformance.oracle_spectral import is_matrix, wudi_objective
from tests.conformance.test_spectral_against_oracle import (
    TASK_VECTORS,
    assert_near,
    low_rank,
    normal,
)
from tests.support.checkpoints import run_recipe, write_checkpoint
from tests.support.kernels import merge_tensor

SPECTRAL = ["iso_c", "iso_cts", "tsv_m", "star", "knots", "wudi"]
MATRICES = sorted(kind for kind, deltas in TASK_VECTORS.items() if is_matrix(deltas[0]))


def merged(method: str, deltas: Sequence[Array], **parameters: Scalar) -> Array:
    """The merged task vector."""
    return merge_tensor(method, np.zeros_like(deltas[0]), deltas, **parameters)


ALONE: dict[str, dict[str, Scalar]] = {
    "tsv_m": {},
    "star": {"eta": 1.0},
    "knots": {},
    "wudi": {},
}
"""Settings under which one expert comes back; the isotropic methods flatten its spectrum."""


@pytest.mark.parametrize("method", sorted(ALONE))
@pytest.mark.parametrize("kind", ["tall", "wide", "square", "of low rank", "a vector"])
def test_one_expert_comes_back(method: str, kind: str) -> None:
    (delta, *_) = TASK_VECTORS[kind]
    assert_near(merged(method, [delta], **ALONE[method]), delta, [delta])


@pytest.mark.parametrize("method", ["iso_c", "iso_cts"])
def test_an_expert_of_flat_spectrum_comes_back_from_isotropic_merging(method: str) -> None:
    u, v = np.linalg.qr(normal(0, 12, 9))[0], np.linalg.qr(normal(1, 10, 9))[0]
    for rank in (9, 4, 1):
        flat = 0.3 * u[:, :rank] @ v[:, :rank].T
        assert_near(merged(method, [flat]), flat, [flat])
        assert_near(merged(method, [flat.T]), flat.T, [flat])


@pytest.mark.parametrize("method", ["star", "knots", "wudi"])
@pytest.mark.parametrize("kind", ["tall", "wide", "of low rank", "a convolution"])
def test_identical_experts_give_that_expert(method: str, kind: str) -> None:
    delta = TASK_VECTORS[kind][1]
    found = merged(method, [delta] * 3, **ALONE[method])
    assert_near(found, delta, [delta])


def test_identical_experts_share_their_strongest_directions_in_tsv_m() -> None:
    delta = normal(0, 20, 14)
    u, s, vt = np.linalg.svd(delta, full_matrices=False)
    assert_near(merged("tsv_m", [delta] * 2), (u[:, :7] * s[:7]) @ vt[:7], [delta])


def test_a_spectrum_made_flat_keeps_its_sum() -> None:
    for kind in MATRICES:
        deltas = TASK_VECTORS[kind]
        before, after = (
            np.linalg.svd(values, compute_uv=False).sum()
            for values in (np.sum(deltas, axis=0), merged("iso_c", deltas))
        )
        assert after == pytest.approx(before, rel=1e-9, abs=1e-12), kind


@pytest.mark.parametrize("method", SPECTRAL)
@pytest.mark.parametrize("kind", sorted(TASK_VECTORS))
def test_the_order_of_the_models_changes_nothing(method: str, kind: str) -> None:
    deltas = TASK_VECTORS[kind]
    one = merged(method, deltas)
    assert_near(merged(method, deltas[::-1]), one, deltas)
    assert_near(merged(method, [*deltas[1:], deltas[0]]), one, deltas)


@pytest.mark.parametrize("method", SPECTRAL)
@pytest.mark.parametrize("kind", ["tall", "square", "of low rank", "one of them zero"])
def test_turning_the_inputs_turns_the_result(method: str, kind: str) -> None:
    """The bases of outputs and inputs mean nothing to a spectrum; to KnOTS that of inputs does."""
    deltas = TASK_VECTORS[kind]
    rows, columns = (np.linalg.qr(normal(9, size, size))[0] for size in deltas[0].shape)
    if method == "knots":
        columns = np.eye(deltas[0].shape[1])
    turned = merged(method, [rows @ delta @ columns for delta in deltas])
    assert_near(rows.T @ turned @ columns.T, merged(method, deltas), deltas)


@pytest.mark.parametrize("method", ["tsv_m", "iso_cts", "star", "knots", "wudi"])
@pytest.mark.parametrize("kind", MATRICES)
def test_what_no_model_changed_stays(method: str, kind: str) -> None:
    padded = [np.pad(delta, ((0, 2), (3, 0))) for delta in TASK_VECTORS[kind]]
    found = merged(method, padded)
    assert np.isfinite(found).all()
    largest = max(np.abs(delta).max() for delta in padded)
    assert np.abs(found[-2:]).max() <= 1e-10 * largest
    assert np.abs(found[:, :3]).max() <= 1e-10 * largest


@pytest.mark.parametrize("method", ["tsv_m", "wudi"])
def test_task_vectors_in_spaces_of_their_own_add_up(method: str) -> None:
    first, second = np.zeros((12, 10)), np.zeros((12, 10))
    first[:6, :5], second[6:, 5:] = low_rank(0, 5, 6, 5), low_rank(1, 5, 6, 5)
    found = merged(method, [first, second], **({"ridge": 1e-9} if method == "wudi" else {}))
    tolerance = 1e-4 if method == "wudi" else 1e-9
    assert np.abs(found - first - second).max() <= tolerance


@pytest.mark.parametrize("kind", MATRICES)
def test_the_closed_solution_of_wudi_has_no_gradient_left(kind: str) -> None:
    deltas = TASK_VECTORS[kind]
    experts = [torch.from_numpy(delta) for delta in deltas]
    found = torch.from_numpy(merged("wudi", deltas, ridge=1e-9)).requires_grad_()
    objective = wudi_objective(found, experts)
    if kind == "all zero":
        assert float(objective) == 0.0
        return
    objective.backward()
    assert found.grad is not None
    largest = max(float(expert.abs().max()) for expert in experts)
    assert float(found.grad.abs().max()) <= 1e-7 * largest


def test_the_descent_of_wudi_ends_where_the_closed_solution_is() -> None:
    deltas = [normal(seed, 6, 5) for seed in range(3)]
    exact = merged("wudi", deltas, ridge=1e-9)
    near = merged("wudi", deltas, solver="adam", learning_rate=3e-3, steps=20_000.0)
    assert np.abs(near - exact).max() < 1e-3
    objective = [
        float(wudi_objective(torch.from_numpy(tau), [torch.from_numpy(d) for d in deltas]))
        for tau in (np.sum(deltas, axis=0), merged("wudi", deltas, solver="adam"), exact)
    ]
    assert objective[0] > objective[1] > objective[2]


def test_no_step_of_the_descent_is_the_sum() -> None:
    deltas = TASK_VECTORS["tall"]
    found = merged("wudi", deltas, solver="adam", steps=0.0)
    assert_near(found, np.sum(deltas, axis=0), deltas)


def test_knots_by_sum_is_task_arithmetic() -> None:
    for kind in MATRICES:
        deltas = TASK_VECTORS[kind]
        found = merged("knots", deltas, combine="linear", threshold=0.0)
        assert_near(found, np.sum(deltas, axis=0), deltas)


def test_knots_leaves_out_weak_directions() -> None:
    u, v = (np.linalg.qr(normal(seed, 9, 9))[0] for seed in (0, 1))
    values = 10.0 ** -np.arange(9)
    found = merged("knots", [(u * values) @ v], combine="linear", threshold=1.5e-4)
    assert_near(found, (u[:, :4] * values[:4]) @ v[:4], [found])


def test_knots_by_dare_is_right_on_average() -> None:
    deltas = [normal(seed, 30, 20) for seed in range(2)]
    base = np.zeros((30, 20))
    each: list[dict[str, Scalar]] = [{"density": 0.5}, {"density": 0.8}]
    draws = [
        merge_tensor("knots", base, deltas, each=each, keys=(seed, 1000 + seed), combine="dare")
        for seed in range(400)
    ]
    error = np.mean(draws, axis=0) - np.sum(deltas, axis=0)
    spread = np.std(draws, axis=0) / 20
    assert np.abs(error).max() < 5 * spread.max()
    assert np.std(draws, axis=0).min() > 0


def test_a_polar_factor_is_the_nearest_isometry() -> None:
    for shape in ((9, 4), (4, 9), (6, 6)):
        matrix = torch.from_numpy(normal(0, *shape))
        factor = polar_factor(matrix)
        thin = factor if shape[0] >= shape[1] else factor.T
        assert torch.allclose(thin.T @ thin, torch.eye(min(shape), dtype=torch.float64))
        stretch = factor.T @ matrix
        assert torch.allclose(stretch, stretch.T)
        assert float(torch.linalg.eigvalsh(stretch).min()) > -1e-12


def test_triples_of_value_zero_are_left_out_and_signs_are_fixed() -> None:
    matrix = torch.from_numpy(low_rank(0, 3, 20, 14))
    triples = singular_triples(matrix)
    assert triples.s.shape == (3,)
    assert torch.allclose(triples.matrix(), matrix)
    turned = singular_triples(-matrix)
    assert torch.allclose(turned.u, triples.u)
    assert torch.allclose(turned.vt, -triples.vt)
    assert (triples.u.gather(0, triples.u.abs().argmax(dim=0, keepdim=True)) > 0).all()


def test_a_matrix_comes_whole() -> None:
    for method in SPECTRAL:
        assert METHODS[method].granularity == "matrix"
        assert METHODS[method].base == "required"
        assert "matrices" in METHODS[method].formula()


SHAPES = [(300, 290), (7, 5), (70_001,), (3, 70_000), (1, 50), (50, 1), (6, 5, 7), (), (0, 4)]
CASES: dict[str, dict[str, object]] = {
    **{method: {} for method in SPECTRAL},
    "knots, dare": {"combine": "dare_ties", "density": 0.4},
    "wudi, adam": {"solver": "adam", "steps": 5},
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_threads_and_block_sizes_do_not_change_a_byte(case: str, tmp_path: Path) -> None:
    sources = {}
    for seed, name in enumerate(("base", "a", "b", "c")):
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            f"layers.{index}.weight": torch.randn(shape, generator=generator).to(torch.bfloat16)
            for index, shape in enumerate(SHAPES)
        }
        sources[name] = write_checkpoint(tmp_path / name, tensors)
    recipe: dict[str, object] = {
        "merge_method": case.split(",")[0],
        "base_model": "base",
        "models": [{"model": name} for name in "abc"],
        "parameters": CASES[case],
    }
    variants: list[dict[str, int]] = [
        {"threads": 1},
        {"threads": 2, "block_elements": 1},
        {"threads": 2, "block_elements": 1 << 22},
    ]
    digests = {
        run_recipe(recipe, sources, tmp_path / f"out-{number}", **variant).object_id
        for number, variant in enumerate(variants)
    }
    assert len(digests) == 1
