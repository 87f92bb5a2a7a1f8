"""Intervals and variances of the gate, against brute force, exact enumeration and scipy.stats."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import optimize, stats

from tasks.statistics.guards import with_pseudo_group
from tasks.statistics.hall import corrected, skewness, uncorrected
from tasks.statistics.holm import holm
from tasks.statistics.linearised import design_effect, spread_of
from tasks.statistics.rule import GateRule
from tasks.statistics.sampling import Groups, Sampling
from tasks.statistics.tango import score_limits, score_statistic

COUNTS = [(0, 0, 20), (3, 0, 20), (0, 3, 20), (7, 5, 50), (1, 12, 50), (40, 2, 400), (25, 25, 60)]


def likeliest_loss(gained: int, lost: int, n: int, change: float) -> float:
    """The likeliest probability of a loss under a change: by search, not by the quadratic."""
    lowest, highest = max(0.0, -change), (1.0 - change) / 2.0

    def cost(losing: float) -> float:
        gaining = losing + change
        rest = max(1.0 - losing - gaining, 1e-300)
        parts = [(gained, gaining), (lost, losing), (n - gained - lost, rest)]
        return -sum(count * np.log(max(p, 1e-300)) for count, p in parts if count)

    found = optimize.minimize_scalar(
        cost, bounds=(lowest, highest), method="bounded", options={"xatol": 1e-13}
    )
    return min([found.x, lowest, highest], key=cost)


@pytest.mark.parametrize(("gained", "lost", "n"), COUNTS)
@pytest.mark.parametrize("change", [-0.2, -0.05, 0.03, 0.1])
def test_the_score_statistic_is_that_of_the_likeliest_table(
    gained: int, lost: int, n: int, change: float
) -> None:
    losing = likeliest_loss(gained, lost, n, change)
    error = np.sqrt(n * (2 * losing + change - change**2))
    expected = (gained - lost - n * change) / error
    assert score_statistic(gained, lost, n, change) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(("gained", "lost", "n"), COUNTS)
def test_the_score_limits_are_where_the_statistic_is_the_quantile(
    gained: int, lost: int, n: int
) -> None:
    low, high = score_limits(gained, lost, n, 1.96)
    assert score_statistic(gained, lost, n, low) == pytest.approx(1.96, abs=1e-9)
    assert score_statistic(gained, lost, n, high) == pytest.approx(-1.96, abs=1e-9)
    turned = score_limits(lost, gained, n, 1.96)
    assert (-turned[1], -turned[0]) == (pytest.approx(low), pytest.approx(high))


def test_nothing_flipped_is_not_certainty() -> None:
    low, high = score_limits(0, 0, 50, 1.96)
    assert high == pytest.approx(1.96**2 / (50 + 1.96**2), abs=1e-12)
    assert low == pytest.approx(-high, abs=1e-12)
    assert score_statistic(0, 0, 50, 0.0) == 0.0


@pytest.mark.parametrize("n", [20, 50, 100])
@pytest.mark.parametrize("gaining", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("margin", [0.05, 0.1])
def test_the_exact_size_at_the_margin_is_at_most_2_7_percent(
    n: int, gaining: float, margin: float
) -> None:
    gained, lost = (each.ravel() for each in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    possible = gained + lost <= n
    gained, lost = gained[possible], lost[possible]
    counts = np.stack([gained, lost, n - gained - lost], axis=1)
    losing = gaining + margin
    chance = stats.multinomial(n, [gaining, losing, 1 - gaining - losing]).pmf(counts)
    held = score_statistic(gained, lost, n, -margin) >= 1.959964
    assert chance.sum() == pytest.approx(1)
    assert chance[held].sum() <= 0.027


def test_hall_takes_skewness_away_and_can_be_turned_around() -> None:
    source = np.random.default_rng(4)
    parts = source.exponential(size=(3, 40))
    assert skewness(parts - parts.mean(axis=-1, keepdims=True)) == pytest.approx(
        stats.skew(parts, axis=-1)
    )
    for t, skew in product([-3.0, -0.5, 0.0, 1.2, 2.5], [-3.0, -0.4, 0.0, 2.0]):
        g = corrected(np.asarray(t), np.asarray(skew), 40)
        assert uncorrected(g, np.asarray(skew), 40) == pytest.approx(t, abs=1e-9)
    assert corrected(np.asarray(2.0), np.asarray(-1.0), 40) < 2.0
    assert corrected(np.asarray(np.inf), np.asarray(0.0), 40) == np.inf


def test_t_of_rare_losses_is_too_sure_and_halls_is_not() -> None:
    source = np.random.default_rng(5)
    losses = np.where(
        source.random((20_000, 60)) < 0.08, -source.exponential(size=(20_000, 60)), 0.0
    )
    spread = spread_of(losses, Sampling(np.ones(60)))
    some = spread.larger > 0
    t = (spread.mean + 0.08)[some] / np.sqrt(spread.larger[some])
    plain = (t > 2.0).mean()
    mended = (corrected(t, skewness(spread.influence)[some], 60) > 2.0).mean()
    assert plain > 0.08
    assert mended < 0.6 * plain


def test_the_variance_of_a_plain_mean_is_the_textbooks() -> None:
    values = np.random.default_rng(1).normal(size=(5, 30))
    spread = spread_of(values, Sampling(np.ones(30)))
    assert spread.mean == pytest.approx(values.mean(axis=1))
    assert spread.larger == pytest.approx(values.var(axis=1, ddof=1) / 30)


def brute_variance(values: list[float], weights: list[float], labels: list[str]) -> float:
    total = sum(weights)
    mean = sum(w * x for w, x in zip(weights, values, strict=True)) / total
    sums: dict[str, float] = {}
    for value, weight, label in zip(values, weights, labels, strict=True):
        sums[label] = sums.get(label, 0.0) + weight * (value - mean) / total
    count = len(sums)
    return count / (count - 1) * sum(each**2 for each in sums.values())


def test_the_variance_of_a_ratio_by_group_is_that_of_linearised_sums() -> None:
    source = np.random.default_rng(2)
    values, weights = source.normal(size=25), source.integers(1, 90, 25).astype(float)
    labels = [f"group {label}" for label in source.integers(0, 7, 25)]
    spread = spread_of(values, Sampling(weights, Groups.of(labels)))
    assert spread.by_group == pytest.approx(brute_variance(list(values), list(weights), labels))
    alone = brute_variance(list(values), list(weights), [str(i) for i in range(25)])
    assert spread.by_document == pytest.approx(alone)
    assert spread.larger == max(spread.by_group, spread.by_document)


def test_the_linearised_variance_is_nearly_the_jackknifes() -> None:
    source = np.random.default_rng(3)
    values, weights = source.normal(size=400), source.lognormal(size=400)
    left_out = [np.average(np.delete(values, i), weights=np.delete(weights, i)) for i in range(400)]
    jackknife = 399 / 400 * ((np.array(left_out) - np.mean(left_out)) ** 2).sum()
    assert spread_of(values, Sampling(weights)).larger == pytest.approx(jackknife, rel=0.03)


def test_what_differs_between_strata_is_no_uncertainty() -> None:
    source = np.random.default_rng(6)
    strata = np.repeat([0, 1, 2], [20, 30, 50])
    values = np.array([-1.0, 0.0, 2.0])[strata] + 0.1 * source.normal(size=100)
    spread = spread_of(values, Sampling(np.ones(100), strata=Groups.of(strata)))
    parts = [values[strata == s] for s in range(3)]
    expected = sum((len(p) / 100) ** 2 * p.var(ddof=1) / len(p) for p in parts)
    assert spread.larger == pytest.approx(expected)
    assert spread.larger < spread_of(values, Sampling(np.ones(100))).larger / 20


def test_groups_that_reach_over_strata_or_are_strata_are_groups() -> None:
    labels = np.repeat(np.arange(10), 5)
    values = np.random.default_rng(8).normal(size=50)
    plain = spread_of(values, Sampling(np.ones(50), Groups.of(labels)))
    for strata in (labels, np.arange(50) % 2):
        both = Sampling(np.ones(50), Groups.of(labels), Groups.of(strata))
        assert both.group_strata is None
        assert spread_of(values, both).by_group == pytest.approx(plain.by_group)
    nested = Sampling(np.ones(50), Groups.of(labels), Groups.of(labels // 5))
    assert nested.group_strata is not None


def test_unequal_groups_count_as_fewer() -> None:
    assert Sampling(np.ones(40), Groups.of(np.repeat(np.arange(8), 5))).effective_groups == 8
    one_giant = Sampling(np.ones(40), Groups.of([0] * 20 + list(range(1, 21))))
    assert one_giant.group_count == 21
    assert one_giant.effective_groups == pytest.approx(40**2 / (20**2 + 20))
    assert one_giant.mean_group_size == pytest.approx((20**2 + 20) / 40)


def test_few_groups_with_a_change_count_as_single_documents() -> None:
    labels = Groups.of(np.repeat(np.arange(30), 4))
    sampling, rule = Sampling(np.ones(120), labels), GateRule()
    for changed, alike in product([1, 9, 12], [True, False]):
        values = np.zeros(120)
        for group in range(changed):
            values[group * 4 : group * 4 + (4 if alike else 1)] = -1.0
        spread = spread_of(values, sampling)
        found = design_effect(spread, np.asarray(float(changed)), sampling, rule)
        measured = spread.by_group / spread.by_document
        expected = max((changed * measured + 4.0) / (changed + 1), 1.0)
        assert found == pytest.approx(max(expected, 4.0) if changed < 10 else expected)


def test_a_pseudo_group_is_one_more_group_that_was_lost() -> None:
    source = np.random.default_rng(9)
    labels = np.repeat(np.arange(50), 20)
    values = -(source.random(1000) < 0.05).astype(float)
    spread = spread_of(values, Sampling(np.ones(1000), Groups.of(labels)))
    more = np.concatenate([values, -np.ones(20)])
    lost = spread_of(more, Sampling(np.ones(1020), Groups.of(np.repeat(np.arange(51), 20))))
    mean, error = with_pseudo_group(spread.mean, spread.by_group, 1000, 20, -1.0)
    assert mean == pytest.approx(lost.mean)
    assert error == pytest.approx(np.sqrt(lost.by_group), rel=0.02)


def test_holm_steps_down() -> None:
    source = np.random.default_rng(10)
    for _ in range(50):
        p = source.random(6) ** 4
        highest, expected = 0.0, {}
        for rank, index in enumerate(np.argsort(p)):
            highest = max(highest, min(1.0, (6 - rank) * p[index]))
            expected[int(index)] = highest
        assert holm(p) == pytest.approx([expected[i] for i in range(6)])


def test_sums_over_groups_are_in_the_order_of_labels() -> None:
    groups = Groups.of(["b", "a", "b", "c", "a"])
    assert groups.sums(np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])).tolist() == [[7.0, 4.0, 4.0]]
    part = Sampling(np.ones(5), groups).part(np.array([True, False, True, True, False]))
    assert part.groups is not None
    assert part.groups.index.tolist() == [0, 0, 1]


def test_nan_stays_nan_in_every_test() -> None:
    values = np.array([0.0, np.nan, 1.0, -1.0] * 10)
    spread = spread_of(values, Sampling(np.ones(40)))
    assert np.isnan(spread.mean)
    assert np.isnan(spread.larger)
    assert not score_statistic(np.nan, 0, 40, -0.1) >= 1.96
