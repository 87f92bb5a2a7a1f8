"""The paired bootstrap against theory, against a slow separate computation, and its invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.promotion.bootstrap import interval, pair, resampled_improvements
from tasks.records import TaskScore


def task_score(values, weights=None, ids=None, scale="ratio", task="t") -> TaskScore:
    weights = [1.0] * len(values) if weights is None else weights
    ratio = sum(values) / sum(weights)
    return TaskScore(
        task=task,
        metric="bits_per_byte",
        higher_is_better=False,
        score=2**ratio if scale == "power_of_two" else ratio,
        doc_ids=tuple(ids or (f"doc{i:05d}" for i in range(len(values)))),
        values=tuple(map(float, values)),
        weights=tuple(map(float, weights)),
        scale=scale,
    )


def improvements(candidate, baseline, *, resamples=2000, seed=1, higher_is_better=False):
    paired = pair(candidate, baseline)
    assert paired is not None
    return resampled_improvements(
        paired, higher_is_better=higher_is_better, resamples=resamples, seed=seed
    )


def test_the_95_percent_interval_covers_the_true_difference_of_a_ratio_about_95_times_in_100():
    source = np.random.default_rng(5)
    truth, covered, runs = 0.05, 0, 600
    for run in range(runs):
        weights = source.integers(50, 400, 120).astype(float)
        hardness = source.gamma(9.0, 0.4, 120)
        better = hardness - truth + source.normal(0, 0.15, 120)
        low, high = interval(
            improvements(
                task_score(better * weights, weights),
                task_score(hardness * weights, weights),
                resamples=600,
                seed=run,
            ),
            0.95,
        )
        covered += low <= truth <= high
    # binomial standard error of a 95 % coverage over 600 runs is 0.9 %
    assert 0.915 <= covered / runs <= 0.98


def test_a_large_sample_interval_is_the_one_of_the_normal_distribution():
    source = np.random.default_rng(0)
    before = source.normal(4, 1, 4000)
    after = before - 0.1 + source.normal(0, 0.3, 4000)
    low, high = interval(improvements(task_score(after), task_score(before)), 0.95)
    difference = before - after
    error = difference.std(ddof=1) / math.sqrt(4000)
    assert low == pytest.approx(difference.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(difference.mean() + 1.96 * error, abs=0.1 * error)


@pytest.mark.parametrize("scale", ["ratio", "power_of_two"])
def test_every_resample_scores_one_redraw_of_the_documents_for_both(scale):
    """With two documents only four redraws exist, so every possible outcome can be listed."""
    weights = [3.0, 5.0]
    after, before = [6.0, 5.0], [9.0, 20.0]

    def score(values, picks):
        ratio = sum(values[i] for i in picks) / sum(weights[i] for i in picks)
        return 2**ratio if scale == "power_of_two" else ratio

    possible = {
        picks: score(before, picks) - score(after, picks) for picks in [(0, 0), (0, 1), (1, 1)]
    }
    drawn = improvements(
        task_score(after, weights, scale=scale), task_score(before, weights, scale=scale)
    )
    shares = {
        picks: np.isclose(drawn, value, rtol=1e-12).mean() for picks, value in possible.items()
    }
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[(0, 1)] == pytest.approx(0.5, abs=0.05)
    assert shares[(0, 0)] == pytest.approx(0.25, abs=0.05)


def test_pairing_is_what_makes_small_differences_visible():
    source = np.random.default_rng(3)
    before = source.normal(4, 2, 300)
    after = before - 0.05 + source.normal(0, 0.05, 300)
    low, _ = interval(improvements(task_score(after), task_score(before)), 0.95)
    assert low > 0
    unrelated = source.permutation(after)
    low, high = interval(improvements(task_score(unrelated), task_score(before)), 0.95)
    assert low < 0 < high


def test_the_same_seed_gives_the_same_draws_and_another_seed_others():
    source = np.random.default_rng(1)
    before, after = task_score(source.normal(4, 1, 200)), task_score(source.normal(4, 1, 200))
    first = improvements(after, before, seed=7)
    assert np.array_equal(first, improvements(after, before, seed=7))
    assert not np.array_equal(first, improvements(after, before, seed=8))


def test_the_order_of_documents_does_not_matter_not_even_of_equal_ones():
    source = np.random.default_rng(2)
    ids = [f"doc{i // 2}" for i in range(100)]  # every document appears twice
    values, others = source.normal(4, 1, 100), source.normal(4, 1, 100)
    weights = source.integers(1, 9, 100).astype(float)
    reference = improvements(task_score(values, weights, ids), task_score(others, weights, ids))
    order = source.permutation(100)
    moved = task_score(values[order], weights[order], [ids[i] for i in order])
    assert np.array_equal(reference, improvements(moved, task_score(others, weights, ids)))


def test_two_metrics_of_the_same_documents_are_redrawn_together():
    values = np.random.default_rng(4).normal(4, 1, 50)
    one = improvements(task_score(values, task="a"), task_score(np.zeros(50), task="a"))
    other = improvements(task_score(2 * values, task="b"), task_score(np.zeros(50), task="b"))
    assert np.allclose(2 * one, other)
    elsewhere = task_score(values, ids=[f"x{i}" for i in range(50)])
    nothing = task_score(np.zeros(50), ids=[f"x{i}" for i in range(50)])
    assert not np.allclose(one, improvements(elsewhere, nothing))


def test_more_documents_than_fit_one_block_are_redrawn_in_full():
    count = 30_000
    drawn = improvements(task_score(np.ones(count)), task_score(np.zeros(count)), resamples=200)
    assert np.array_equal(drawn, np.full(200, -1.0))


@pytest.mark.parametrize(
    "other",
    [
        task_score([1, 2, 3], ids=["a", "b", "x"]),
        task_score([1, 2], ids=["a", "b"]),
        task_score([1, 2, 3], ids=["a", "b", "b"]),
        task_score([1, 2, 3], ids=["a", "b", "c"], scale="power_of_two"),
    ],
)
def test_scores_of_other_documents_are_not_paired(other):
    assert pair(task_score([1, 2, 3], ids=["a", "b", "c"]), other) is None
