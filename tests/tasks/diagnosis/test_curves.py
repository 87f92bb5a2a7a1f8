"""Barriers and basins against plain numpy on the documents' own values."""

from __future__ import annotations

import numpy as np
import pytest

from merge_core.recipes.loading import parse_recipe
from tasks.diagnosis.advice import edge_of
from tasks.diagnosis.curves import chord, curve_of, tasks_of
from tasks.diagnosis.points import LINE, MOST_PAIRS, SCALES, points_of
from tasks.records import EvaluationReport
from tests.support.diagnosed import scale_curve
from tests.tasks.promotion.test_rule import accuracy_task, bits_task, report

BASE = report("base", bits_task("code", 0), accuracy_task("quiz", 200))
GOOD = report("good", bits_task("code", -0.3), accuracy_task("quiz", 240))
OTHER = report("othe", bits_task("code", -0.1), accuracy_task("quiz", 210))
HILL = report("hill", bits_task("code", 0.4), accuracy_task("quiz", 150))


def by_document(evaluated: EvaluationReport, task: str) -> np.ndarray:
    score = evaluated.score(task)
    return np.array(score.values) / np.array(score.weights)


def test_a_barrier_is_the_height_above_the_line_between_the_ends() -> None:
    curve = curve_of((0, 1), [(0.0, GOOD), (0.5, HILL), (0.75, OTHER), (1.0, OTHER)], BASE)
    barrier = curve.barrier
    assert barrier is not None
    heights = []
    for task, sign in (("code", 1.0), ("quiz", -1.0)):  # losses: bits, and what is not right
        line = 0.5 * by_document(GOOD, task).mean() + 0.5 * by_document(OTHER, task).mean()
        unit = by_document(BASE, task).std(ddof=1)
        heights.append(sign * (by_document(HILL, task).mean() - line) / unit)
    assert barrier.at == 0.5
    assert barrier.height == pytest.approx(np.mean(heights), rel=0.02)
    assert 0.0 < barrier.low < barrier.height < barrier.high


def test_a_way_that_bends_down_has_a_barrier_below_zero() -> None:
    curve = curve_of((0,), [(0.0, BASE), (0.5, GOOD), (1.0, OTHER)], BASE)
    assert curve.barrier is not None
    assert curve.barrier.high < 0.0
    assert curve.best is not None
    assert curve.best.at == 0.5
    assert [point.below_best for point in curve.points] == [True, False, True]


def test_a_straight_line_has_none() -> None:
    middle = chord(GOOD, OTHER, 0.5)
    curve = curve_of((0, 1), [(0.0, GOOD), (0.5, middle), (1.0, OTHER)], BASE)
    assert curve.barrier is not None
    assert curve.barrier.height == pytest.approx(0.0, abs=1e-12)
    assert curve.barrier.low <= 0.0 <= curve.barrier.high


def test_what_could_not_be_merged_is_a_gap_and_an_end_without_number_ends_the_barrier() -> None:
    gap = curve_of((0,), [(0.0, BASE), (0.5, "its layers differ"), (1.0, GOOD)], BASE)
    assert [point.why for point in gap.points] == ["", "its layers differ", ""]
    assert gap.barrier is None
    end = curve_of((0,), [(0.0, BASE), (0.5, GOOD), (1.0, "its layers differ")], BASE)
    assert end.barrier is None
    assert end.best is not None


def test_a_point_has_every_score_and_the_tasks_their_direction() -> None:
    [point, *_] = curve_of((0,), [(1.0, GOOD)], BASE).points
    assert point.scores == {score.task: score.score for score in GOOD.scores}
    assert [(t.name, t.higher_is_better) for t in tasks_of(GOOD)] == [
        ("code", False),
        ("quiz", True),
    ]


@pytest.mark.parametrize(
    ("changes", "below", "edge"),
    [
        ({0.0: 0.0, 0.5: 0.1, 1.0: 0.05, 1.5: -0.1, 2.0: -0.3}, (1.5, 2.0), 1.5),
        ({0.0: 0.0, 0.5: 0.1, 1.0: 0.05, 2.0: 0.09}, (1.0,), None),  # it comes back
        ({0.0: 0.0, 0.5: 0.1, 1.0: 0.2}, (0.0, 0.5), None),  # it still rises
        ({0.0: 0.1, 0.5: 0.0, 1.0: -0.2}, (0.5, 1.0), 0.5),  # all of it is worse
        ({0.0: 0.0, 1.0: 0.1, 2.0: None}, (), 2.0),  # a broken model has no number
        ({0.0: None}, (), None),
    ],
)
def test_a_basin_ends_where_everything_further_is_certainly_worse(
    changes: dict[float, float | None], below: tuple[float, ...], edge: float | None
) -> None:
    assert edge_of(scale_curve(0, changes, below)) == edge


def recipe_of(models: int, base: bool = True) -> dict[str, object]:
    listed = [{"model": f"m{k}", "parameters": {"weight": 1.0}} for k in range(models)]
    method = {"merge_method": "ties", "base_model": "b"} if base else {"merge_method": "linear"}
    return {**method, "models": listed, "dtype": "bfloat16"}


def test_the_ends_of_all_ways_are_the_same_merges() -> None:
    template = parse_recipe(recipe_of(2))
    paths, left_out = points_of(template, "b", ["m0", "m1"])
    assert (len(paths), left_out) == (3, 0)
    first, second, line = paths
    assert [at for at, _ in first.points] == list(SCALES)
    assert [at for at, _ in line.points] == list(LINE)
    digests = {recipe.digest for path in paths for _, recipe in path.points}
    assert len(digests) == 16, "7 + 7 + 5, less the base and both models which are shared"
    assert dict(first.points)[0.0].digest == dict(second.points)[0.0].digest
    assert dict(first.points)[1.0].digest == dict(line.points)[0.0].digest
    middle = dict(line.points)[0.25]
    assert [entry.parameters["weight"] for entry in middle.models] == [0.75, 0.25]
    assert middle.dtype == "bfloat16"


def test_without_a_base_there_are_lines_alone() -> None:
    paths, _ = points_of(parse_recipe(recipe_of(2, base=False)), None, ["m0", "m1"])
    [line] = paths
    assert {recipe.merge_method for _, recipe in line.points} == {"linear"}
    assert [entry.model for entry in line.points[0][1].models] == ["m0"]


def test_of_many_pairs_those_that_are_least_alike_are_looked_at() -> None:
    names = [f"m{k}" for k in range(5)]
    cosines = [0.9, 0.1, 0.8, 0.2, 0.3, 0.4, 0.7, None, 0.5, 0.6]
    paths, left_out = points_of(parse_recipe(recipe_of(5)), "b", names, cosines)
    lines = [path.models for path in paths if len(path.models) == 2]
    assert left_out == 10 - MOST_PAIRS
    assert lines == [(0, 2), (0, 4), (1, 2), (1, 3), (2, 3), (2, 4)]
