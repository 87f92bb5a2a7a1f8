"""Methods in which models vote on signs: the order in which a recipe lists them changes no bit."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from merge_core.methods import METHODS
from merge_core.methods.parts.unordered import FEW, Parts, unordered_sum, vote
from merge_core.planning.engine_version import Peculiarities, engine_of
from merge_core.recipes.loading import parse_recipe
from merge_core.records import SourceCheckpoint
from tests.support.checkpoints import run_recipe, write_checkpoint

ELECTING = sorted(name for name, method in METHODS.items() if method.elects)
DENSE = {"dare_ties": {"density": 1.0}, "della": {"density": 1.0, "epsilon": 0.1}}
WEIGHTS = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float32, torch.float64])
def zoo(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, SourceCheckpoint]:
    """A base and four models whose changes, times their weights, often add up to nothing but
    rounding: 0.1 * 3 + 0.3 * 1 - 0.2 * 3."""
    root = tmp_path_factory.mktemp("zoo")
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(70_000, generator=generator)
    steps = {name: torch.randint(-4, 5, base.shape, generator=generator) for name in WEIGHTS}
    models = {"base": base} | {name: base + step * 2.0**-7 for name, step in steps.items()}
    return {
        name: write_checkpoint(root / name, {"w": values.to(request.param)})
        for name, values in models.items()
    }


def recipe(method: str, names: tuple[str, ...], **parameters: Any) -> dict[str, Any]:
    weighted = any(each.name == "weight" for each in METHODS[method].per_model())
    models = [
        {"model": name, "parameters": {"weight": WEIGHTS[name]} if weighted else {}}
        for name in names
    ]
    settings = DENSE.get(method, {}) | parameters
    return {
        "merge_method": method,
        "base_model": "base",
        "models": models,
        "parameters": settings,
    }


def merged(zoo: dict[str, SourceCheckpoint], values: dict[str, Any], out: Path) -> torch.Tensor:
    run_recipe(values, zoo, out, threads=1)
    return load_file(out / "model.safetensors")["w"]


@pytest.mark.parametrize("method", ELECTING)
def test_no_order_changes_any_bit(
    zoo: dict[str, SourceCheckpoint], method: str, tmp_path: Path
) -> None:
    orders = [("a", "b", "c", "d"), ("d", "c", "a", "b")]
    results = [
        merged(zoo, recipe(method, order), tmp_path / str(number))
        for number, order in enumerate(orders)
    ]
    for other in results[1:]:
        assert torch.equal(results[0], other)


@pytest.mark.parametrize(
    "parameters",
    [
        {"normalize": False},
        {"average": "count", "lambda": 0.7},
        {"elect": "count"},
        {"density": 0.4},
    ],
)
def test_no_setting_of_ties_lets_the_order_decide(
    zoo: dict[str, SourceCheckpoint], parameters: dict[str, Any], tmp_path: Path
) -> None:
    results = [
        merged(zoo, recipe("ties", order, **parameters), tmp_path / "".join(order))
        for order in (("a", "b", "c"), ("c", "a", "b"))
    ]
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_a_sum_has_one_value_in_all_orders_and_is_as_good_as_a_plain_one() -> None:
    generator = torch.Generator().manual_seed(1)
    terms = [
        torch.randn(5000, generator=generator, dtype=torch.float64)
        * torch.exp2(torch.randint(-60, 60, (5000,), generator=generator).double())
        for _ in range(5)
    ]
    terms[4] = -(terms[0] + terms[1])
    expected = unordered_sum(terms)
    for order in itertools.permutations(range(5)):
        assert torch.equal(unordered_sum([terms[place] for place in order]), expected)
    columns = zip(*map(torch.Tensor.tolist, terms), strict=True)
    exact = torch.tensor([math.fsum(column) for column in columns], dtype=torch.float64)
    largest = torch.stack([term.abs() for term in terms]).max(dim=0).values
    assert bool(((expected - exact).abs() <= exact.abs() * 2.0**-52 + largest * 2.0**-90).all())


def test_what_is_left_of_three_terms_that_cancel_is_no_vote() -> None:
    terms = [torch.tensor([size, -size], dtype=torch.float64) for size in (0.1, 0.2, -0.3)]
    assert float(terms[0][0] + terms[1][0] + terms[2][0]) > 0  # rounding alone
    assert vote(terms).tolist() == [True, True]
    smaller = [*terms[:2], terms[2] * (1 + 1e-12)]
    assert vote(smaller).tolist() == [False, True]


def test_terms_of_all_sizes_survive() -> None:
    for size in (0.0, 5e-324, 1e-310, 1e-200, 1e200):
        terms = [torch.tensor([size, -size, 0.0], dtype=torch.float64) for _ in range(3)]
        assert torch.equal(Parts(terms).sum(), terms[0] * 3)


def test_two_models_are_added_as_they_always_were(
    zoo: dict[str, SourceCheckpoint], tmp_path: Path
) -> None:
    assert FEW == 2
    two, three = recipe("ties", ("a", "b")), recipe("ties", ("a", "b", "c"))
    plain = Peculiarities()
    assert engine_of(parse_recipe(two), plain) == "4"
    assert engine_of(parse_recipe(three), plain) == "5"
    assert engine_of(parse_recipe(recipe("task_arithmetic", ("a", "b", "c"))), plain) == "4"
