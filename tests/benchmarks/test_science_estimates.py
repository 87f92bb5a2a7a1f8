"""Means, their errors and what is concluded from them, against arithmetic written out here."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.science.estimates import Estimate, Part, estimate, mean_of

SOURCE = np.random.default_rng(5)
VALUES = SOURCE.normal(0.3, 1.0, (3, 8))
GROUPS = ("a", "a", "b", "c", "c", "c", "d", "d")


def between_files(values: np.ndarray, groups: tuple[str, ...]) -> float:
    """The variance of a mean over whole files, file by file."""
    documents = [sum(float(row[at]) for row in values) / len(values) for at in range(len(groups))]
    middle = sum(documents) / len(documents)
    files = sorted(set(groups))
    total = 0.0
    for file in files:
        own = sum(d - middle for d, group in zip(documents, groups, strict=True) if group == file)
        total += own**2
    return total / len(documents) ** 2 * len(files) / (len(files) - 1)


def between_seeds(means: list[float]) -> float:
    middle = sum(means) / len(means)
    return sum((mean - middle) ** 2 for mean in means) / (len(means) - 1) / len(means)


def test_the_error_is_that_of_seeds_and_that_of_files() -> None:
    found = estimate([Part(VALUES, GROUPS)])
    means = [math.fsum(row) / 8 for row in VALUES]
    expected = math.sqrt(between_seeds(means) + between_files(VALUES, GROUPS))
    assert found.mean == pytest.approx(math.fsum(means) / 3, rel=1e-12)
    assert found.error == pytest.approx(expected, rel=1e-12)
    assert (found.seeds, found.documents) == (3, 8)


def test_one_seed_leaves_the_error_of_the_files() -> None:
    found = estimate([Part(VALUES[:1], GROUPS)])
    assert found.error == pytest.approx(math.sqrt(between_files(VALUES[:1], GROUPS)), rel=1e-12)


def test_other_documents_add_their_variances_and_seeds_add_up() -> None:
    others = SOURCE.normal(0.0, 2.0, (3, 4))
    names = ("e", "e", "f", "g")
    found = estimate([Part(VALUES, GROUPS, 0.5), Part(others, names, -2.0)])
    sums = [
        0.5 * float(one.mean()) - 2.0 * float(two.mean())
        for one, two in zip(VALUES, others, strict=True)
    ]
    files = 0.25 * between_files(VALUES, GROUPS) + 4.0 * between_files(others, names)
    assert found.mean == pytest.approx(sum(sums) / 3, rel=1e-12)
    assert found.error == pytest.approx(math.sqrt(between_seeds(sums) + files), rel=1e-12)
    assert found.documents == 12


def test_the_same_documents_are_added_before_they_vary() -> None:
    """A part less itself has no error; two halves of it are the whole."""
    nothing = estimate([Part(VALUES, GROUPS), Part(VALUES, GROUPS, -1.0)])
    assert (nothing.mean, nothing.error) == (0.0, 0.0)
    assert mean_of([Part(VALUES, GROUPS)] * 2).error == pytest.approx(
        estimate([Part(VALUES, GROUPS)]).error
    )


def test_parts_of_other_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="same seeds"):
        estimate([Part(VALUES, GROUPS), Part(VALUES[:2], GROUPS)])


@pytest.mark.parametrize(
    ("mean", "error", "verdict"),
    [
        (0.21, 0.1, "held"),
        (0.19, 0.1, "not shown"),
        (0.0, 0.0, "not shown"),
        (-0.19, 0.1, "not shown"),
        (-0.21, 0.1, "the opposite was seen"),
        (math.nan, 0.1, "not shown"),
    ],
)
def test_only_what_is_beyond_two_errors_was_seen(mean: float, error: float, verdict: str) -> None:
    assert Estimate(mean, error, 3, 8).verdict == verdict


def test_two_errors_are_seldom_exceeded_by_nothing() -> None:
    """Seeds, files and documents that all vary: a claim about nothing is rarely held."""
    source = np.random.default_rng(6)
    held = 0
    for _ in range(2000):
        seeds = source.normal(0, 0.3, (5, 1))
        files = np.repeat(source.normal(0, 0.5, 30), 2)
        values = seeds + files + source.normal(0, 1.0, (5, 60))
        groups = tuple(str(at // 2) for at in range(60))
        held += estimate([Part(values, groups)]).verdict == "held"
    assert held / 2000 < 0.05
