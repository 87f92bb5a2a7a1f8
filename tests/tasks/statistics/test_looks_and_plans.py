"""Looks, futility and planning of the gate, against normal integrals and simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks.gate.simulate import Cell, arrays_of_batch, run_cell
from benchmarks.gate.worlds import World
from tasks.statistics import GateRule, TaskMeasurement, judge, plan
from tasks.statistics.decision import judge_arrays
from tasks.statistics.looks import (
    conditional_power,
    efficacy_bounds,
    levels_of_looks,
    look_of_documents,
)
from tasks.statistics.measurements import checked
from tasks.statistics.plan import planned_task
from tasks.statistics.planning import times_as_many
from tasks.statistics.sampling import Groups, Sampling


def never_crossed(bounds: tuple[float, ...], looks: int) -> float:
    """Probability that z is below each bound: an integral over the looks' joint distribution."""
    times = np.arange(1, looks + 1) / looks
    covariance = np.sqrt(np.minimum.outer(times, times) / np.maximum.outer(times, times))
    some = covariance[: len(bounds), : len(bounds)]
    if len(bounds) == 1:
        return float(stats.norm.cdf(bounds[0]))
    below = stats.multivariate_normal.cdf(
        bounds, np.zeros(len(bounds)), some, abseps=1e-6, releps=1e-6, maxpts=500_000
    )
    return float(below)


def test_five_looks_have_the_bounds_of_the_design_page() -> None:
    bounds = efficacy_bounds(5, 0.025)
    assert bounds == pytest.approx((4.877, 3.357, 2.680, 2.290, 2.031), abs=5e-4)


@pytest.mark.parametrize(("looks", "alpha"), [(2, 0.025), (5, 0.025), (4, 0.05), (5, 0.025 / 60)])
def test_each_look_spends_what_obrien_and_fleming_do(looks: int, alpha: float) -> None:
    bounds = efficacy_bounds(looks, alpha)
    for look in range(1, looks + 1):
        time = look / looks
        spent = 2 * stats.norm.sf(stats.norm.isf(alpha / 2) / np.sqrt(time)) if time < 1 else alpha
        assert 1 - never_crossed(bounds[:look], looks) == pytest.approx(spent, abs=2e-5)


def test_one_look_has_the_whole_level() -> None:
    assert levels_of_looks(1, 0.025) == (0.025,)
    assert sum(levels_of_looks(5, 0.025)) > 0.025  # they overlap
    assert levels_of_looks(5, 0.025)[-1] < 0.025


def test_conditional_power_is_how_often_the_rest_crosses() -> None:
    source = np.random.default_rng(1)
    statistic, seen, bound = 0.4, 0.6, 2.031
    drift = (statistic + 1) / np.sqrt(seen)
    rest = drift * (1 - seen) + np.sqrt(1 - seen) * source.standard_normal(400_000)
    crossed = (statistic * np.sqrt(seen) + rest > bound).mean()
    found = conditional_power(np.asarray(statistic), seen, bound)
    assert found == pytest.approx(crossed, abs=0.003)


def test_looks_take_whole_groups_and_all_strata_alike() -> None:
    labels = np.repeat(np.arange(60), np.tile([1, 5, 9], 20))
    strata = (labels >= 30).astype(int)
    sampling = Sampling(np.ones(len(labels)), Groups.of(labels), Groups.of(strata))
    looks = look_of_documents(sampling, 5, seed=7)
    assert set(looks) == {1, 2, 3, 4, 5}
    for group in range(60):
        assert len(set(looks[labels == group])) == 1
    for stratum in (0, 1):
        shares = [np.mean(looks[strata == stratum] <= look) for look in range(1, 6)]
        assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0], abs=0.06)
    assert np.array_equal(looks, look_of_documents(sampling, 5, seed=7))
    assert not np.array_equal(looks, look_of_documents(sampling, 5, seed=8))


def flipped(values: np.ndarray, share: float, source: np.random.Generator) -> np.ndarray:
    """Flips as many answers to wrong as to right, of values that are right in 60 %."""
    likely = np.where(values > 0, share / 2 / 0.6, share / 2 / 0.4)
    return np.where(source.random(len(values)) < likely, 1 - values, values)


def task(n: int, seed: int, *, experts: int = 1, gain: float = 0.0) -> TaskMeasurement:
    source = np.random.default_rng(seed)
    base = (source.random(n) < 0.6).astype(float)
    better = np.where(source.random(n) < gain, 1.0, flipped(base, 0.1, source))
    names = {f"expert {i}": flipped(base, 0.1, source) for i in range(experts)}
    return TaskMeasurement(f"task {seed}", "binary", base, better, experts=names)


def test_a_margin_is_about_3_24_planned_standard_errors() -> None:
    measured = task(400, 1)
    found = plan([measured]).tasks[0]
    change = np.asarray(measured.experts["expert 0"]) - np.asarray(measured.baseline)
    error = change.std(ddof=1) / np.sqrt(400) / found.unit
    assert found.reach == pytest.approx(3.24 * error, rel=0.05)
    assert found.margin == pytest.approx(max(0.1, found.reach))
    assert found.unit == pytest.approx(np.std(measured.baseline))


def test_margins_stay_within_what_the_rule_allows() -> None:
    small, large = plan([task(60, 1)]).tasks[0], plan([task(5000, 1)]).tasks[0]
    assert (small.margin, small.is_met) == (0.2, False)
    assert (large.margin, large.is_met) == (0.1, True)
    assert small.documents_needed is not None
    assert 300 < small.documents_needed < 600
    assert large.documents_needed is not None
    assert large.documents_needed < 1000
    fixed = replace(task(60, 1), margin=0.15)
    assert plan([fixed]).tasks[0].margin == 0.15


def test_without_experts_nothing_is_planned() -> None:
    found = plan([task(400, 1, experts=0)])
    assert found.tasks[0].reach is None
    assert found.tasks[0].margin == 0.1
    assert found.visible_change is None


@pytest.mark.parametrize(
    "world",
    [
        World(200, 0.0, experts=(0.1,)),
        World(600, 0.0, experts=(0.1,), sizes=(6,), correlation=0.4),
        World(100, 0.0, kind="score", tail="normal", experts=(0.2,)),
    ],
)
def test_an_unchanged_candidate_holds_its_planned_margin_as_often_as_promised(
    world: World,
) -> None:
    rule = GateRule(margin=0.001, widest_margin=1.0)
    tasks, _ = arrays_of_batch((world,), rule, 2000, np.random.default_rng(1))
    assert 0.82 <= judge_arrays(tasks).guards[0].held.mean() <= 0.97


@pytest.mark.parametrize("kind", ["binary", "score"])
@pytest.mark.parametrize("size", [1, 10, 25])
def test_plan_and_verdict_have_one_margin_whatever_the_candidate_is(kind: str, size: int) -> None:
    source = np.random.default_rng(3)
    base = (source.random(500) < 0.6).astype(float)
    labels = np.arange(500) // size
    both = [flipped(base, 0.1, source), flipped(base, 0.5, source)]
    expert = {"expert": flipped(base, 0.05, source)}
    tasks = [
        TaskMeasurement("task", kind, base, each, experts=expert, clusters=labels)  # type: ignore[arg-type]
        for each in both
    ]
    planned = plan([replace(tasks[0], candidate=None)]).tasks[0].margin
    assert [judge([each]).tasks[0].margin for each in tasks] == [planned, planned]


def test_four_times_the_documents_reach_about_half_as_far() -> None:
    for kind in ("binary", "score"):
        measured = task(300, 5)
        _, planned = planned_task(checked(replace(measured, kind=kind)), 1.0, GateRule())
        assert planned is not None
        half = planned.reach(4.0)[0] / planned.reach()[0]
        assert 0.4 < half < 0.55
        times = times_as_many(lambda scale, own=planned: float(own.reach(scale)[0]), 0.05)
        assert times is not None
        assert planned.reach(times)[0] == pytest.approx(0.05)
    assert times_as_many(lambda scale: 1.0, 0.5) is None


def test_the_visible_change_is_promoted_as_often_as_promised() -> None:
    tasks = [task(4000, seed) for seed in range(4)]
    found = plan(tasks)
    assert found.visible_change is not None
    four = (World(4000, found.visible_change),) * 4
    rule = GateRule(margin=4, widest_margin=4)
    outcome = run_cell(Cell("", "", four, rule, simulations=200), 1)
    assert 0.7 <= outcome.promoted / 200 <= 0.9


def seen_at(tasks: list[TaskMeasurement], look: int, looks: int) -> list[TaskMeasurement]:
    parts = []
    for each in tasks:
        order = look_of_documents(checked(each).sampling, looks, seed=1)
        values = np.where(order <= look, np.asarray(each.candidate), np.nan)
        parts.append(replace(each, candidate=values, evaluated=order <= look))
    return parts


def test_a_bad_candidate_stops_early_and_a_good_one_is_promoted_early() -> None:
    rule = GateRule(looks=5)
    bad = [
        replace(task(1000, s), candidate=np.roll(np.arange(1000) % 2, s).astype(float))
        for s in range(4)
    ]
    result = judge(seen_at(bad, 1, 5), rule, look=1)
    assert result.verdict == "fell_back"
    assert result.chance is not None
    assert result.chance < rule.futility
    good = [task(1000, s, gain=0.3) for s in range(4)]
    result = judge(seen_at(good, 2, 5), rule, look=2)
    assert result.verdict == "promoted"
    assert result.level == pytest.approx(stats.norm.sf(3.357), rel=0.01)
    assert result.tasks[0].documents == 400
    assert result.tasks[0].margin == judge(good, rule).tasks[0].margin


def test_an_equal_candidate_mostly_goes_on() -> None:
    goes_on = 0
    for seed in range(10):
        equal = [replace(task(1000, seed * 4 + s), experts={}) for s in range(4)]
        result = judge(seen_at(equal, 1, 5), GateRule(looks=5), look=1)
        assert result.chance is not None
        assert (result.verdict == "inconclusive") == (result.chance >= 0.02)
        goes_on += result.verdict == "inconclusive"
    assert 6 <= goes_on <= 9
    assert judge(equal, GateRule(looks=5)).chance is None
