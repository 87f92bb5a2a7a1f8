"""When a search has nothing left to try, though its budget is not spent."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.search.exhausted import MOST_IN_VAIN, why_exhausted
from tasks.search.space import Space
from tasks.search.trial import Outcome, Result, Trial

CHOICES = {"a": [1, 2], "b": {"from": 0.1, "to": 0.3, "step": 0.1}}
RANGE = {"a": {"from": 0.0, "to": 1.0}}


def space(knobs: dict[str, Any], methods: Any = ()) -> Space:
    return Space.model_validate({"knobs": knobs, "methods": methods})


def trial(number: int, values: dict[str, Any], recipe: str, outcome: Outcome = "whole") -> Trial:
    return Trial(number=number, values=values, result=Result(outcome=outcome, recipe=recipe))


@pytest.mark.parametrize(
    ("knobs", "methods", "size"),
    [
        (CHOICES, (), 6),
        (CHOICES, ["linear", {"ties": {"density": [0.2, 0.5]}}], 18),
        (RANGE, (), None),
        (CHOICES, ["linear", {"ties": {"density": {"from": 0.2, "to": 0.5}}}], None),
    ],
)
def test_the_size_of_a_space_is_the_number_of_its_points(
    knobs: dict[str, Any], methods: Any, size: int | None
) -> None:
    points = space(knobs, methods).points()
    assert space(knobs, methods).size == size == (points if points is None else len(points))


def test_a_space_is_exhausted_when_every_point_is_tried() -> None:
    small = space(CHOICES)
    trials = [trial(0, {}, "beside")]
    for number, values in enumerate(small.points() or (), 1):
        assert not why_exhausted(small, trials)
        trials += [trial(number, values, str(values)), trial(number, values, str(values))]
    assert why_exhausted(small, trials) == "every point of the space is tried"


def test_a_range_is_exhausted_when_a_hundred_trials_bring_no_new_merge() -> None:
    trials = [trial(0, {"a": 0.5}, "known")]
    for number in range(1, MOST_IN_VAIN + 1):
        assert not why_exhausted(space(RANGE), trials)
        outcome: Outcome = "failed" if number % 2 else "whole"
        trials.append(trial(number, {"a": 0.5}, "known", outcome))
    assert "were no new merges" in why_exhausted(space(RANGE), trials)
    trials.append(trial(len(trials), {"a": 0.7}, "new"))
    assert not why_exhausted(space(RANGE), trials)
