"""The methods beyond TIES and DARE equal float64 oracles on every nasty tensor.

Tolerance: half a unit of the stored dtype plus 1e-6 relative. Methods that work with angles and
means get `SLACK` of the tensor's largest value besides: their factors come from float64 dot
products, whose relative error of some 1e-14 (a sum of 1e5 terms) is divided by the squared sine or
length that is left after cancellation; the tests keep these above 1e-3 or exactly at 0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from merge_core.methods import METHODS
from tests.conformance import oracle
from tests.conformance import oracle_sphere as sphere
from tests.conformance import oracle_task_vectors as vectors
from tests.conformance.nasty import (
    Models,
    Oracle,
    Zoo,
    assert_equals_oracle,
    entry,
    every_tensor,
    merge_nasty,
)
from tests.conformance.oracle import Array, elected_signs
from tests.conformance.test_arcee_pcb import NASTY_CASES as COMPETITION_CASES
from tests.conformance.test_methods_against_oracle import CASES as FIRST_CASES
from tests.conformance.test_spectral_against_oracle import NASTY_CASES as SPECTRAL_CASES

SLACK = 1e-10
HERE = Path(__file__).parent
Recipe = dict[str, object]


def based(*models: Recipe, **parameters: object) -> Recipe:
    return {"base_model": "base", "models": list(models), "parameters": parameters}


def free(*models: Recipe, **parameters: object) -> Recipe:
    return {"models": list(models), "parameters": parameters}


def experts(m: Models, names: str = "abc") -> list[Array]:
    return [m[name] for name in names]


def bands(
    m: Models, settings: dict[str, tuple[float, float]], *, rescale: bool = False
) -> list[Array]:
    """Breadcrumbs' task vectors for (density, gamma) of each model."""
    found = []
    for name, (density, gamma) in settings.items():
        delta = m[name] - m["base"]
        kept = vectors.band(delta, density, gamma)
        found.append(oracle.match_l1(delta, kept) if rescale else kept)
    return found


def added(m: Models, deltas: list[Array], weights: list[float], **options: object) -> Array:
    settings: dict[str, object] = {"consensus": False, "normalize": False, **options}
    return oracle.add_task_vectors(m["base"], deltas, weights, **settings)  # type: ignore[arg-type]


ABC = [entry("a"), entry("b"), entry("c")]
WEIGHTED = [entry("a", weight=0.6), entry("b", weight=0.45), entry("c", weight=-0.25)]
WEIGHTS = [0.6, 0.45, -0.25]

TASK_VECTOR_CASES: dict[str, tuple[Recipe, Oracle]] = {
    "breadcrumbs": (
        based(entry("a", weight=0.6, density=0.4, gamma=0.05),
              entry("b", weight=-0.4, density=0.7), **{"lambda": 0.9}),
        lambda m: added(m, bands(m, {"a": (0.4, 0.05), "b": (0.7, 0.01)}), [0.6, -0.4], scale=0.9),
    ),
    "breadcrumbs, normalised and rescaled": (
        based(entry("a", weight=0.6), entry("b", weight=0.3),
              density=0.5, gamma=0.2, normalize=True, rescale=True),
        lambda m: added(m, bands(m, {"a": (0.5, 0.2), "b": (0.5, 0.2)}, rescale=True),
                        [0.6, 0.3], normalize=True),
    ),
    "breadcrumbs, gamma 0 drops no outlier": (
        based(entry("a", weight=1.0), density=0.3, gamma=0),
        lambda m: added(m, [oracle.trim(m["a"] - m["base"], 0.3)], [1.0]),
    ),
    "breadcrumbs, gamma yields to density": (
        based(entry("a", weight=1.0), density=0.9, gamma=0.5),
        lambda m: added(m, bands(m, {"a": (0.9, 0.5)}), [1.0]),
    ),
    "breadcrumbs, densities of one, zero and almost zero": (
        based(entry("a", weight=1.0), entry("b", weight=1.0, density=0.0),
              entry("c", weight=1.0, density=1e-9), gamma=0.1),
        lambda m: added(m, bands(m, {"a": (1, 0.1), "b": (0, 0.1), "c": (1e-9, 0.1)}),
                        [1.0, 1.0, 1.0]),
    ),
    "breadcrumbs_ties": (
        based(entry("a", weight=0.6, density=0.4, gamma=0.05), entry("b", weight=0.45),
              entry("c", weight=-0.25, density=0.8, gamma=0.3), density=0.6),
        lambda m: added(m, bands(m, {"a": (0.4, 0.05), "b": (0.6, 0.01), "c": (0.8, 0.3)}),
                        WEIGHTS, consensus=True),
    ),
    "breadcrumbs_ties, normalised": (
        based(entry("a", weight=0.6), entry("b", weight=0.45), entry("c", weight=0.25),
              density=0.5, gamma=0.1, normalize=True, **{"lambda": 1.3}),
        lambda m: added(m, bands(m, dict.fromkeys("abc", (0.5, 0.1))), [0.6, 0.45, 0.25],
                        consensus=True, normalize=True, scale=1.3),
    ),
    "della at density 1": (
        based(*WEIGHTED),
        lambda m: added(m, bands(m, dict.fromkeys("abc", (1, 0))), WEIGHTS,
                        consensus=True, normalize=True),
    ),
    "della_linear at density 1": (
        based(*WEIGHTED, normalize=True),
        lambda m: added(m, bands(m, dict.fromkeys("abc", (1, 0))), WEIGHTS, normalize=True),
    ),
    "della at density 0": (based(*WEIGHTED, density=0), lambda m: m["base"]),
    "della_linear at density 0": (
        based(*WEIGHTED, density=0, rescale="inverse_density"), lambda m: m["base"]
    ),
    "ties at density 0": (
        based(entry("a", weight=1, density=0), entry("b", weight=0.5)),
        lambda m: added(m, [m["b"] - m["base"]], [0.5], consensus=True, normalize=True),
    ),
    "ties, weights that cancel": (
        based(entry("a", weight=0.1), entry("b", weight=0.2), entry("c", weight=-0.3)),
        lambda m: cancelled_ties(m),
    ),
    "sce": (based(*ABC), lambda m: vectors.sce(m["base"], experts(m))),
    "sce, a third": (
        based(*ABC, select_topk=0.33), lambda m: vectors.sce(m["base"], experts(m), 0.33)
    ),
    "sce, none": (based(*ABC, select_topk=0), lambda m: m["base"]),
    "sce, one model": (based(entry("a")), lambda m: m["a"]),
    "sce, one model, selected": (based(entry("a"), select_topk=0.5), lambda m: m["base"]),
    "nearswap": (
        based(entry("a"), t=0.03), lambda m: vectors.nearswap(m["base"], m["a"], 0.03)
    ),
    "nearswap at 0": (based(entry("a"), t=0), lambda m: m["base"]),
    "nearswap from afar": (based(entry("base"), entry("a"), t=1e9), lambda m: m["a"]),
    "ram": (based(*ABC), lambda m: vectors.ram(m["base"], experts(m))),
    "ram, epsilon": (
        based(*ABC, epsilon=0.06), lambda m: vectors.ram(m["base"], experts(m), 0.06)
    ),
    "ram, one model": (based(entry("a"), epsilon=0), lambda m: m["a"]),
    "ramplus_tl": (
        based(*ABC), lambda m: vectors.ram(m["base"], experts(m), r=0.1, alpha=0.2)
    ),
    "ramplus_tl, strong": (
        based(*ABC, epsilon=0.06, r=0.7, alpha=5),
        lambda m: vectors.ram(m["base"], experts(m), 0.06, r=0.7, alpha=5),
    ),
    "magmax": (based(*ABC), lambda m: vectors.magmax(m["base"], experts(m))),
    "magmax, one model": (based(entry("b"), **{"lambda": 1}), lambda m: m["b"]),
    "emr": (
        based(*ABC, **{"lambda": 0.6}), lambda m: vectors.emr(m["base"], experts(m), 0.6)
    ),
    "emr, one model": (based(entry("b")), lambda m: m["b"]),
    "consensus_ta": (based(*ABC), lambda m: vectors.consensus(m["base"], experts(m))),
    "consensus_ta, three of three": (
        based(*ABC, k=3, tall_lambda=0.2, **{"lambda": 0.8}),
        lambda m: vectors.consensus(m["base"], experts(m), 3, 0.2, 0.8),
    ),
    "consensus_ta, nobody is asked": (
        based(*ABC, k=0, **{"lambda": 1}),
        lambda m: added(m, [x - m["base"] for x in experts(m)], [1, 1, 1]),
    ),
    "metagpt, by tensor": (
        based(*ABC, scope="tensor"), lambda m: vectors.metagpt(m["base"], experts(m))
    ),
    "metagpt, one model": (based(entry("a")), lambda m: m["a"]),
    "normalized_task_arithmetic, by tensor": (
        based(*WEIGHTED, scope="tensor", **{"lambda": 1.2}),
        lambda m: vectors.normalized_task_arithmetic(m["base"], experts(m), WEIGHTS, 1.2),
    ),
    "normalized_task_arithmetic, one model": (based(entry("a", weight=1)), lambda m: m["a"]),
}  # fmt: skip


def cancelled_ties(m: Models) -> Array:
    """Where all three agree their weights add up to 0, and the sum stays undivided."""
    weights = [0.1, 0.2, -0.3]
    weighted = [w * (x - m["base"]) for w, x in zip(weights, experts(m), strict=True)]
    elected = elected_signs(np.stack(weighted))
    agree = [np.sign(values) == elected for values in weighted]
    divisor = np.sum([w * a for w, a in zip(weights, agree, strict=True)], axis=0)
    divisor = np.where(np.abs(divisor) < 1e-8, 1.0, divisor)
    return (
        m["base"] + np.sum([v * a for v, a in zip(weighted, agree, strict=True)], axis=0) / divisor
    )


ANGLE_CASES: dict[str, tuple[Recipe, Oracle]] = {
    "nuslerp": (
        free(entry("a", weight=0.3), entry("b", weight=0.5)),
        lambda m: sphere.nuslerp(experts(m, "ab"), (0.3, 0.5)),
    ),
    "nuslerp of task vectors": (
        based(entry("a", weight=0.3), entry("b", weight=0.5)),
        lambda m: sphere.nuslerp(experts(m, "ab"), (0.3, 0.5), m["base"]),
    ),
    "nuslerp, weights that add up to 0": (
        based(entry("a", weight=0.3), entry("b", weight=-0.3)),
        lambda m: sphere.nuslerp(experts(m, "ab"), (0.3, -0.3), m["base"]),
    ),
    "nuslerp by rows": (
        based(entry("base"), entry("a", weight=0.6), entry("c", weight=0.2), nuslerp_flatten=False),
        lambda m: sphere.nuslerp(experts(m, "ac"), (0.6, 0.2), m["base"], axis=-1),
    ),
    "nuslerp by columns": (
        free(entry("a", weight=0.6), entry("b", weight=0.2),
             nuslerp_flatten=False, nuslerp_row_wise=True),
        lambda m: sphere.nuslerp(experts(m, "ab"), (0.6, 0.2), axis=0),
    ),
    "nuslerp by columns of task vectors": (
        based(entry("b", weight=0.6), entry("c", weight=0.2),
              nuslerp_flatten=False, nuslerp_row_wise=True),
        lambda m: sphere.nuslerp(experts(m, "bc"), (0.6, 0.2), m["base"], axis=0),
    ),
    "nuslerp at its first model": (
        free(entry("a", weight=1), entry("b", weight=0)), lambda m: m["a"]
    ),
    "multislerp": (free(*WEIGHTED), lambda m: spherical_mean(m, WEIGHTS, None)),
    "multislerp of task vectors": (
        based(*WEIGHTED), lambda m: spherical_mean(m, WEIGHTS, m["base"])
    ),
    "multislerp, not normalised": (
        based(*WEIGHTED, normalize_weights=False),
        lambda m: spherical_mean(m, WEIGHTS, m["base"], normalize=False),
    ),
    "multislerp of two": (
        based(entry("a", weight=1), entry("b", weight=1)),
        lambda m: spherical_mean(m, [1, 1], m["base"]),
    ),
    "multislerp of one": (based(entry("a", weight=0.2)), lambda m: m["a"]),
    "karcher": (free(*ABC), lambda m: sphere.karcher(experts(m))),
    "karcher with the base": (
        {"models": [entry("base"), entry("c")], "parameters": {"max_iter": 40, "tol": 1e-9}},
        lambda m: sphere.karcher([m["base"], m["c"]], 40, 1e-9),
    ),
    "model_stock": (based(*ABC), lambda m: vectors.model_stock(m["base"], experts(m))),
    "model_stock of two": (
        based(entry("a"), entry("b")), lambda m: vectors.model_stock(m["base"], experts(m, "ab"))
    ),
    "model_stock by filters": (
        based(*ABC, filter_wise=True),
        lambda m: vectors.model_stock(m["base"], experts(m), filter_wise=True),
    ),
}  # fmt: skip


def spherical_mean(
    m: Models, weights: list[float], base: Array | None, *, normalize: bool = True
) -> Array:
    found = sphere.multislerp(experts(m)[: len(weights)], weights, base, normalize=normalize)
    assert found is not None
    return found


def method_of(case: str) -> str:
    return case.split(",")[0].split()[0]


def test_every_method_meets_the_nasty_tensors() -> None:
    cases = {
        *FIRST_CASES, *TASK_VECTOR_CASES, *ANGLE_CASES, *COMPETITION_CASES, *SPECTRAL_CASES
    }  # fmt: skip
    drawn = {"dare_linear", "dare_ties", "della_linear", "della"}
    on_data = {name for name, method in METHODS.items() if method.calibration}
    in_a_file_of_its_own = {name for name in METHODS if (HERE / f"test_{name}.py").is_file()}
    found = {method_of(case) for case in cases} | drawn | on_data | in_a_file_of_its_own
    assert found == set(METHODS)


@pytest.mark.parametrize("case", sorted(TASK_VECTOR_CASES))
def test_a_method_on_task_vectors_equals_its_oracle(case: str, zoo: Zoo, tmp_path: Path) -> None:
    recipe, expected = TASK_VECTOR_CASES[case]
    merge_nasty({"merge_method": method_of(case), **recipe}, zoo, tmp_path / "out")
    assert_equals_oracle(tmp_path / "out", every_tensor(zoo, expected))


@pytest.mark.parametrize("case", sorted(ANGLE_CASES))
def test_a_method_on_angles_equals_its_oracle(case: str, zoo: Zoo, tmp_path: Path) -> None:
    recipe, expected = ANGLE_CASES[case]
    merge_nasty({"merge_method": method_of(case), **recipe}, zoo, tmp_path / "out")
    assert_equals_oracle(tmp_path / "out", every_tensor(zoo, expected), slack=SLACK)
