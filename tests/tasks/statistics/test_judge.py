"""The front of the gate: what is promoted, what is not, and why."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tasks.statistics import GateRule, TaskMeasurement, judge
from tasks.statistics.changes import TaskArrays
from tasks.statistics.guards import guard, limits
from tasks.statistics.recurring import nightly_rules
from tasks.statistics.sampling import Groups, Sampling

Arrays = np.ndarray


def answers(n: int, seed: int, *, gained: int, lost: int, name: str = "") -> TaskMeasurement:
    """A 0/1 task of n documents, 60 % right before, with exactly so many flips."""
    base = (np.arange(n) < 0.6 * n).astype(float)
    after = base.copy()
    source = np.random.default_rng(seed)
    after[source.choice(np.flatnonzero(base == 1), lost, replace=False)] = 0
    after[source.choice(np.flatnonzero(base == 0), gained, replace=False)] = 1
    return TaskMeasurement(name or f"task {seed}", "binary", base, after)


def texts(n: int, seed: int, change: float, noise: float = 0.05) -> TaskMeasurement:
    """Bits per byte of n texts with unequal bytes; `change` of them, below 0 better."""
    source = np.random.default_rng(seed)
    base = 1.0 + 0.5 * source.standard_normal(n)
    after = base + change + noise * source.standard_normal(n)
    weights = source.integers(200, 900, n).astype(float)
    return TaskMeasurement(
        f"texts {seed}", "score", base, after, higher_is_better=False, weights=weights
    )


def test_better_everywhere_is_promoted() -> None:
    tasks = [answers(400, 1, gained=40, lost=5), texts(100, 2, -0.1)]
    result = judge(tasks)
    assert result.verdict == "promoted"
    assert result.primary.outcome == "gained"
    assert [each.outcome for each in result.tasks] == ["held", "held"]
    assert result.tasks[0].change == 35 / 400
    assert result.tasks[1].change == pytest.approx(0.1, abs=0.02)
    assert result.tasks[1].candidate < result.tasks[1].baseline
    assert (result.tasks[0].gained, result.tasks[0].lost) == (40, 5)


def test_one_task_that_lost_its_margin_refuses_all_others() -> None:
    tasks = [answers(400, s, gained=60, lost=2) for s in range(3)]
    result = judge([*tasks, answers(400, 9, gained=2, lost=60)])
    assert result.verdict == "fell_back"
    assert [each.name for each in result.tasks if each.outcome == "regressed"] == ["task 9"]


def test_nothing_changed_is_inconclusive() -> None:
    result = judge([answers(400, 1, gained=0, lost=0)])
    assert result.verdict == "inconclusive"
    assert (result.primary.outcome, result.tasks[0].outcome) == ("unclear", "held")


def test_certainly_not_better_falls_back() -> None:
    result = judge([answers(1000, s, gained=20, lost=60) for s in range(3)])
    assert result.verdict == "fell_back"
    assert result.primary.outcome == "below"


@pytest.mark.parametrize("where", [0, 17, 399])
def test_one_nan_is_never_held(where: int) -> None:
    task = answers(400, 1, gained=80, lost=0)
    values = np.asarray(task.candidate).copy()
    values[where] = np.nan
    result = judge([replace(task, candidate=values), answers(400, 2, gained=80, lost=0)])
    assert result.verdict == "fell_back"
    assert (result.tasks[0].outcome, result.tasks[0].non_finite) == ("invalid", 1)
    assert result.tasks[0].worst[0].index == where


@pytest.mark.parametrize("kind", ["binary", "fraction", "score"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_number_that_is_none_gets_through_any_kind(kind: Any, value: float) -> None:
    base = (np.arange(200) % 2).astype(float)
    after = np.ones(200)
    after[3] = value
    labels = np.arange(200) // 4
    for clusters in (None, labels):
        task = TaskMeasurement("task", kind, base, after, clusters=clusters)
        result = judge([task])
        assert (result.verdict, result.tasks[0].outcome) == ("fell_back", "invalid")


def test_what_the_baseline_could_not_answer_is_left_out() -> None:
    task = answers(400, 1, gained=80, lost=0)
    base, after = np.asarray(task.baseline).copy(), np.asarray(task.candidate).copy()
    base[:4] = after[:3] = np.nan
    result = judge([replace(task, baseline=base, candidate=after)])
    assert (result.tasks[0].left_out, result.tasks[0].documents) == (4, 396)
    assert result.verdict == "promoted"
    base[4] = np.nan
    with pytest.raises(ValueError, match="'task 1': the baseline has no finite value for more"):
        judge([replace(task, baseline=base, candidate=after)])


def test_few_documents_or_groups_are_never_held() -> None:
    few = answers(19, 1, gained=7, lost=0)
    assert judge([few]).tasks[0].outcome == "unclear"
    grouped = answers(90, 1, gained=36, lost=0)
    for groups, outcome in ((9, "unclear"), (10, "held")):
        result = judge([replace(grouped, clusters=np.arange(90) % groups)])
        assert result.tasks[0].outcome == outcome, groups
        assert result.verdict == ("promoted" if outcome == "held" else "inconclusive")


def test_a_frozen_unit_is_used_and_a_steady_baseline_has_a_smallest_one() -> None:
    task = answers(400, 1, gained=40, lost=5)
    result = judge([replace(task, unit=0.4)]).tasks[0]
    assert (result.unit, result.change_units) == (0.4, pytest.approx(35 / 400 / 0.4))
    easy = replace(task, baseline=np.ones(400), candidate=np.ones(400))
    assert judge([easy]).tasks[0].unit == 0.2


def test_lower_is_better_is_higher_turned_around() -> None:
    task = texts(100, 1, -0.1)
    turned = replace(
        task,
        higher_is_better=True,
        baseline=-np.asarray(task.baseline),
        candidate=-np.asarray(task.candidate),
    )
    one, other = asdict(judge([task])), asdict(judge([turned]))
    for key in ("baseline", "candidate"):
        assert one["tasks"][0].pop(key) == -other["tasks"][0].pop(key)
    assert one == other


def test_a_document_counts_for_no_more_than_half_a_unit() -> None:
    task = texts(200, 1, -0.2)
    after = np.asarray(task.candidate).copy()
    after[5] += 1000.0
    result = judge([replace(task, candidate=after)]).tasks[0]
    lost = (0.5 * result.unit + 0.2) * np.asarray(task.weights)[5] / np.sum(task.weights)
    before = judge([task]).tasks[0].change
    assert result.change == pytest.approx(before - lost, abs=0.001)
    assert result.unclipped_change < -1
    assert result.worst[0].index == 5
    assert result.worst[0].change == pytest.approx(-1000, abs=1)
    assert len(result.worst) <= 10


def test_the_interval_of_a_score_is_students_with_pseudo_documents() -> None:
    task = texts(150, 3, -0.05)
    weights = np.asarray(task.weights)
    rule = GateRule()
    result = judge([task], rule).tasks[0]
    base = np.asarray(task.baseline)
    unit = np.sqrt(np.average((base - np.average(base, weights=weights)) ** 2, weights=weights))
    change = np.clip(base - np.asarray(task.candidate), -unit / 2, unit / 2)
    mean = np.average(change, weights=weights)
    error = np.sqrt(150 / 149 * ((weights * (change - mean)) ** 2).sum()) / weights.sum()
    kish = weights.sum() ** 2 / (weights**2).sum()
    extra = max(3.84, stats.norm.isf(0.025) ** 2)
    quantile = stats.t.isf(0.025, kish - 1)
    low = (kish * mean - extra * unit / 2) / (kish + extra) - quantile * error
    high = (kish * mean + extra * unit / 2) / (kish + extra) + quantile * error
    assert (result.unit, result.change) == (pytest.approx(unit), pytest.approx(mean))
    assert (result.low, result.high) == (pytest.approx(low), pytest.approx(high))


def test_the_primary_endpoint_adds_squared_distances_in_units() -> None:
    tasks = [
        answers(400, 1, gained=30, lost=9),
        texts(80, 2, -0.1),
        answers(99, 3, gained=2, lost=5),
    ]
    shares = [2.0, 1.0, 0.0]
    given = [replace(each, share=share) for each, share in zip(tasks, shares, strict=True)]
    result = judge(given)
    assert [each.share for each in result.tasks] == [2 / 3, 1 / 3, 0]
    change = sum(each.share * each.change / each.unit for each in result.tasks)
    below = [each.share * (each.change - each.low) / each.unit for each in result.tasks]
    assert result.primary.change == pytest.approx(change)
    assert result.primary.low == pytest.approx(change - math.hypot(*below))
    assert result.primary.low < result.primary.change < result.primary.high


def random_task(kind: Any, seed: int, grouped: bool) -> TaskArrays:
    source = np.random.default_rng(seed)
    n = int(source.integers(25, 300))
    base = (source.random((40, n)) < 0.6).astype(float)
    flips = source.random((40, n)) < source.random((40, 1)) * 0.3
    after = np.where(flips, 1 - base, base)
    weights = source.integers(1, 50, n).astype(float) if kind == "score" else np.ones(n)
    labels = np.sort(source.integers(0, int(source.integers(12, 60)), n))
    return TaskArrays(
        kind=kind,
        sampling=Sampling(weights, Groups.of(labels) if grouped else None),
        baseline=base,
        candidate=after,
        unit=np.full(40, 0.5),
        margin=source.random(40) * 0.3 + 0.01,
        share=1.0,
        rule=GateRule(min_groups=2),
    )


@pytest.mark.parametrize("kind", ["binary", "fraction", "score"])
@pytest.mark.parametrize("grouped", [False, True])
def test_held_is_exactly_that_the_interval_is_above_minus_the_margin(
    kind: str, grouped: bool
) -> None:
    seen = set()
    for seed, level in product(range(12), (0.025, 0.0004)):
        task = random_task(kind, seed, grouped)
        low, high = limits(task, level)
        found = guard(task, level)
        floor = -task.margin * task.unit
        assert np.array_equal(found.held, low >= floor)
        assert np.array_equal(found.p_below <= level, high <= floor)
        assert np.all((low <= task.spread.mean) & (task.spread.mean <= high))
        seen |= {*found.held.tolist()}
    assert seen == {True, False}


def expert_task(kept: float, seed: int = 1, n: int = 400) -> TaskMeasurement:
    """The expert gained 25 %; the candidate kept a part of exactly that."""
    base = (np.arange(n) < n // 2).astype(float)
    expert, after = base.copy(), base.copy()
    expert[n // 2 : n // 2 + n // 4] = 1
    after[n // 2 : n // 2 + round(kept * n // 4)] = 1
    return TaskMeasurement(f"task {seed}", "binary", base, after, experts={"expert": expert})


@pytest.mark.parametrize(
    ("kept", "outcome", "verdict"),
    [(1.0, "kept", "promoted"), (0.8, "unclear", "promoted"), (0.4, "below", "fell_back")],
)
def test_a_candidate_that_certainly_kept_too_little_is_refused(
    kept: float, outcome: str, verdict: str
) -> None:
    task = expert_task(kept)
    result = judge([task])
    found = result.retention[0]
    assert (found.outcome, result.verdict) == (outcome, verdict)
    assert (found.expert_gain, found.kept) == (0.25, pytest.approx(kept))
    base, after, expert = (
        np.asarray(each) for each in (task.baseline, task.candidate, task.experts["expert"])
    )
    rest = stats.ttest_1samp(after - 0.2 * base - 0.8 * expert, 0.0, alternative="less")
    assert found.blame_p == pytest.approx(rest.pvalue)
    shown = judge([task], GateRule(retention_blocks=False))
    assert shown.verdict == "promoted"
    assert shown.retention[0].outcome == outcome


def test_an_expert_without_a_certain_gain_blocks_nothing() -> None:
    task = answers(400, 1, gained=60, lost=5)
    source = np.random.default_rng(0)
    expert = np.where(source.random(400) < 0.1, 1 - np.asarray(task.baseline), task.baseline)
    result = judge([replace(task, experts={"expert": expert})])
    assert result.retention[0].outcome == "no_certain_gain"
    assert result.verdict == "promoted"


def test_the_result_is_the_same_each_time() -> None:
    tasks = [expert_task(0.8), replace(texts(60, 2, -0.1), clusters=np.arange(60) // 3)]
    once, again = judge(tasks), judge(tasks)
    assert once == again


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"candidate": np.zeros(5)}, "candidate has not one entry for each document"),
        ({"candidate": None}, "there is no candidate"),
        ({"candidate": np.full(400, 0.5)}, "candidate: a value is not binary"),
        ({"kind": "fraction", "candidate": np.full(400, 1.5)}, "a value is not fraction"),
        ({"weights": np.zeros(400)}, "no document is left"),
        ({"weights": -np.ones(400)}, "a weight is below 0"),
        ({"weights": np.arange(400) + 1.0}, "weights of a binary task are not equal"),
        ({"clusters": ["one"]}, "clusters has not one entry"),
        ({"unit": 0.0}, "unit has to be above 0"),
        ({"margin": -0.1}, "margin has to be above 0"),
        ({"share": -1.0}, "share has to be at least 0"),
        ({"share": 0.0}, "no task has a share"),
        ({"evaluated": np.zeros(400, dtype=bool)}, "no document has been evaluated"),
    ],
)
def test_measurements_that_cannot_be_compared_are_refused(
    change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        judge([replace(answers(400, 1, gained=9, lost=1), **change)])


def test_two_tasks_of_one_name_and_unknown_looks_are_refused() -> None:
    task = answers(400, 1, gained=9, lost=1)
    with pytest.raises(ValueError, match="'task 1' is there twice"):
        judge([task, task])
    with pytest.raises(ValueError, match="look 2: the rule has 1"):
        judge([task], look=2)


@pytest.mark.parametrize(
    "numbers",
    [
        {"alpha": 0.0},
        {"alpha": 0.5},
        {"margin": 0.0},
        {"margin": 0.3},
        {"exceed": math.nan},
        {"looks": 0},
        {"share": 1.0},
        {"clip": -1.0},
    ],
)
def test_a_rule_with_a_number_out_of_range_names_it(numbers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"alpha|margin|exceed|looks|share|clip"):
        GateRule(**numbers)


def test_nights_share_alpha_against_the_anchor_alone() -> None:
    rules = nightly_rules(GateRule(), 60)
    assert (rules["champion"].alpha, rules["anchor"].alpha) == (0.025, 0.025 / 60)
    fair = [answers(400, s, gained=22, lost=13) for s in range(4)]
    verdicts = [judge(fair, rules[name]).verdict for name in ("champion", "anchor")]
    assert verdicts == ["promoted", "inconclusive"]
    with pytest.raises(ValueError, match="nights: 0"):
        nightly_rules(GateRule(), 0)


def test_a_task_that_must_hold_is_refused_for_any_loss_that_was_measured() -> None:
    better = [answers(400, seed, gained=60, lost=2) for seed in range(3)]
    for gained, lost, verdict in ((3, 3, "promoted"), (3, 4, "fell_back"), (4, 3, "promoted")):
        safety = answers(400, 9, gained=gained, lost=lost, name="safety")
        assert judge([*better, safety]).verdict == "promoted"
        result = judge([*better, replace(safety, must_hold=True)])
        assert result.verdict == verdict, (gained, lost)
        blamed = [each.name for each in result.tasks if each.outcome == "regressed"]
        assert blamed == (["safety"] if verdict == "fell_back" else [])


def test_what_was_kept_of_an_expert_is_measured_from_its_origin() -> None:
    """The baseline has half of the expert's gain already; the candidate has all of it."""
    task = expert_task(1.0)
    origin, name = np.asarray(task.baseline), next(iter(task.experts))
    expert = np.asarray(task.experts[name])
    half = np.where(np.arange(len(origin)) % 2, origin, expert)
    moved = replace(task, baseline=half, candidate=expert, origin=origin)
    [found] = judge([moved]).retention
    assert found.expert_gain == pytest.approx(float((expert - origin).mean()))
    assert found.kept == pytest.approx(1.0)
    [beside] = judge([replace(moved, origin=None)]).retention
    assert beside.expert_gain < found.expert_gain
