"""The numbers of a stepped range, and that Optuna's samplers propose the same ones."""

from __future__ import annotations

import warnings
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution, distribution_to_json, json_to_distribution
from optuna.samplers import RandomSampler, TPESampler
from pydantic import ValidationError

from merge_core.homes.home import Home
from tasks.search import sampling
from tasks.search.first import Start
from tasks.search.sampling import Sampler, Study
from tasks.search.space import Knob, Space
from tasks.search.trial import Result

AWKWARD: dict[tuple[float, float, float], tuple[float, ...]] = {
    (0.15, 0.95, 0.1): (0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95),
    (-0.3, 0.3, 0.1): (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3),
    (-0.45, 0.05, 0.1): (-0.45, -0.35, -0.25, -0.15, -0.05, 0.05),
    (0.1, 0.34, 0.1): (0.1, 0.2, 0.3),
    (0.0, 1.0, 0.16666666667): tuple(round(0.16666666667 * place, 11) for place in range(7)),
    (1.1, 3.3, 1.1): (1.1, 2.2, 3.3),
    (1e-20, 0.3, 0.1): (0.0, 0.1, 0.2, 0.3),
    (1e-7, 5e-7, 1e-7): (1e-7, 2e-7, 3e-7, 4e-7, 5e-7),
    (1_000_000.1, 1_000_000.4, 0.1): (1_000_000.1, 1_000_000.2, 1_000_000.3, 1_000_000.4),
    (1, 3, 1): (1, 2, 3),
    (0, 1, 5): (0,),
}


def knob(low: float, high: float, step: float) -> Knob:
    return Knob.model_validate({"from": low, "to": high, "step": step})


@pytest.mark.parametrize("ends", AWKWARD, ids=str)
def test_a_range_holds_the_numbers_that_a_person_counts(ends: tuple[float, float, float]) -> None:
    points = knob(*ends).points
    assert points == AWKWARD[ends]
    assert points
    assert [type(point) for point in points] == [type(point) for point in AWKWARD[ends]]
    # Steps of binary fractions, as a sampler takes them, lead to the same numbers.
    binary = [ends[0] + place * ends[2] for place in range(len(points))]
    assert tuple(map(knob(*ends).value, binary)) == points


def test_every_range_of_hundredths_is_taken_by_optuna_as_it_is() -> None:
    ranges = [
        (low, step, count)
        for low in range(-95, 100, 10)
        for step in (1, 3, 5, 7, 10, 20)
        for count in (1, 2, 3, 8, 13)
    ]
    for low, step, count in ranges:
        high = low + step * count
        each = knob(low / 100, high / 100, step / 100)
        wanted = tuple(number / 100 for number in range(low, high + 1, step))
        assert each.points == wanted
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            range_ = sampling._distribution(each)
            assert json_to_distribution(distribution_to_json(range_)) == range_
        assert isinstance(range_, FloatDistribution)
        assert (range_.low, range_.high) == (wanted[0], wanted[-1])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ends", list(AWKWARD)[:-1], ids=str)
def test_a_sampler_proposes_these_numbers_and_no_others(ends: tuple[float, float, float]) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    each = knob(*ends)
    for sampler in (RandomSampler(seed=1), TPESampler(seed=1, n_startup_trials=5)):
        study = optuna.create_study(sampler=sampler)
        seen = set()
        for _ in range(60):
            trial = study.ask({"a": sampling._distribution(each)})
            seen.add(each.value(trial.params["a"]))
            study.tell(trial, 0.0)
        assert seen == set(AWKWARD[ends])


def test_a_step_that_changes_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="values next to each other look the same"):
        knob(1.0, 1.0000000000000002, 1e-18 * 200)


def former(each: Knob) -> FloatDistribution:
    """The range as it was handed to Optuna before."""
    low, high, step = each.low, each.high, each.step
    assert low is not None
    assert high is not None
    assert step
    return FloatDistribution(low, low + int((high - low) / step + 1e-9) * step, step=step)


LOST_ITS_LAST, LOST_NONE = (-0.45, 0.05, 0.1), (0.15, 0.95, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "most", "ends"),
    [
        ("random", 4, LOST_ITS_LAST),
        ("grid", 22, LOST_ITS_LAST),
        ("tpe", 22, LOST_ITS_LAST),
        ("cma-es", 22, LOST_ITS_LAST),
        ("cma-es", 22, LOST_NONE),
    ],
)
def test_a_search_of_before_goes_on_in_the_trials_that_it_would_have_had(
    sampler: Sampler,
    most: int,
    ends: tuple[float, float, float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space = Space(knobs={"a": knob(*ends), "b": knob(0.1, 0.5, 0.1)})
    points = [Start(values=point) for point in space.points() or ()] if sampler == "grid" else []

    def searched(place: str, until: int) -> list[dict[str, object]]:
        home = Home(tmp_path / place)
        study = Study(home, "s", "d" * 64, {}, space=space, sampler=sampler, seed=1)
        study.begin(points)
        while asked := study.next(until):
            near = abs(float(asked.values["a"]) - 0.3) + float(asked.values["b"])
            study.tell(asked, Result(outcome="whole", recipe=str(asked.number), objective=-near))
        return [dict(trial.values) for trial in study.trials()]

    with monkeypatch.context() as before, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before.setattr(sampling, "_distribution", former)
        whole = searched("whole", most)
        assert searched("killed", most - most // 3) == whole[: most - most // 3]
    assert searched("killed", most) == whole
