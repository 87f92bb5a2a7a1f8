"""Trials in Optuna's database: seeded by number, gone on with, told once."""

from __future__ import annotations

import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from merge_core.files.digests import canonical_json
from merge_core.homes.home import Home
from tasks.search.first import Start
from tasks.search.sampling import (
    Asked,
    Sampler,
    Study,
    importances,
    kept_searches,
    left_to_chance,
)
from tasks.search.space import METHOD, Space
from tasks.search.storage import database
from tasks.search.trial import Result, Trial

SPACE = Space.model_validate(
    {
        "knobs": {"a": {"from": 0.0, "to": 1.0}, "b": {"from": 0.001, "to": 1.0, "log": True}},
        "methods": ["linear", {"ties": {"density": {"from": 0.1, "to": 0.9, "step": 0.1}}}],
    }
)
STARTS = [Start("first", {"method": "linear", "a": 0.5, "b": 0.5}), Start("beside")]
MOST = 14


class Killed(BaseException):
    """In place of a signal: nothing is tidied up."""


def study(home: Home, sampler: Sampler, space: Space = SPACE, name: str = "s") -> Study:
    objectives = 2 if sampler == "nsga-ii" else 1
    return Study(
        home, name, "d" * 64, {}, space=space, sampler=sampler, seed=3, objectives=objectives
    )


def result(asked: Asked) -> Result:
    a, b = float(asked.values.get("a", 0)), float(asked.values.get("b", 0))
    bonus = 0.1 if asked.values.get("method") == "ties" else 0.0
    tasks = {"one": bonus - (a - 0.3) ** 2, "two": bonus - b}
    return Result(
        outcome="whole", recipe=str(asked.values), objective=sum(tasks.values()), tasks=tasks
    )


def searched(
    home: Home, sampler: Sampler, most: int, at: Callable[[int, str], None]
) -> list[Trial]:
    """Search on, `at` being asked to interrupt."""
    each = study(home, sampler)
    each.begin(STARTS)
    while asked := each.next(most):
        at(asked.number, "asked")
        each.tell(asked, result(asked))
        at(asked.number, "told")
    return each.trials()


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random", "cma-es", "nsga-ii"])
def test_a_search_that_was_killed_ends_in_the_same_trials(
    sampler: Sampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = searched(Home(tmp_path / "a"), sampler, MOST, lambda number, when: None)
    assert [trial.number for trial in whole] == list(range(MOST))
    assert len({str(trial.values) for trial in whole}) > MOST - 3

    killed = Home(tmp_path / "b")
    for moment in ((0, "asked"), (5, "told"), (12, "asked")):

        def interrupt(number: int, when: str, moment: tuple[int, str] = moment) -> None:
            if (number, when) == moment:
                raise Killed

        with pytest.raises(Killed):
            searched(killed, sampler, MOST, interrupt)
    # Between two parameters of one trial, of which the first is kept already.
    drawn = Study._drawn

    def half_drawn(self: Study, trial: Any, number: int) -> Any:
        trial.suggest_categorical("method", ["linear", "ties"])
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Study, "_drawn", half_drawn)
        with pytest.raises(Killed):
            study(killed, sampler).next(MOST)  # the trial that was begun
    assert Study._drawn is drawn
    assert searched(killed, sampler, MOST, lambda number, when: None) == whole


def test_a_larger_budget_goes_on_with_the_same_search(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first = searched(home, "tpe", 6, lambda number, when: None)
    more = searched(home, "tpe", 9, lambda number, when: None)
    assert more[:6] == first
    assert len(more) == 9


def test_a_grid_is_walked_in_its_order_and_ends(tmp_path: Path) -> None:
    space = Space.model_validate(
        {"knobs": {"a": {"from": 1, "to": 3, "step": 1}, "b": [True, False]}}
    )
    each = study(Home(tmp_path), "grid", space)
    points = space.points()
    assert points is not None
    each.begin([Start(values=point) for point in points])
    seen = []
    while asked := each.next(len(points)):
        seen.append(asked.values)
        each.tell(asked, result(asked))
    assert seen == points


def test_a_grid_goes_on_when_the_file_names_its_knobs_in_another_order(tmp_path: Path) -> None:
    knobs = {"a": {"from": 1, "to": 3, "step": 1}, "b": [True, False]}
    seen: list[dict[str, Any]] = []
    for most, names in ((3, "ab"), (6, "ba")):
        space = Space.model_validate({"knobs": {name: knobs[name] for name in names}})
        each = study(Home(tmp_path), "grid", space)
        each.begin([Start(values=point) for point in space.points() or ()])
        while asked := each.next(most):
            seen.append(asked.values)
            each.tell(asked, result(asked))
    assert len(seen) == len({canonical_json(values) for values in seen}) == 6


def test_the_largest_grid_begins_at_once(tmp_path: Path) -> None:
    space = Space.model_validate({"knobs": {"a": {"from": 1, "to": 9999, "step": 1}}})
    each = study(Home(tmp_path), "grid", space)
    points = space.points()
    assert points is not None
    each.begin([Start(values=point) for point in points])
    asked = each.next(len(points))
    assert asked is not None
    each.tell(asked, result(asked))
    assert len(each._study.get_trials()) == 1, "what was not asked for is not in the database"


@pytest.mark.slow
def test_a_trial_that_was_kept_and_not_told_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two."""
    home = Home(tmp_path)
    whole = searched(Home(tmp_path / "whole"), "tpe", 6, lambda number, when: None)

    def killed(self: Study, token: Any, trial: Trial) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Study, "_told", killed)
        with pytest.raises(Killed):
            searched(home, "tpe", 6, lambda number, when: None)
    begun = study(home, "tpe")
    begun.begin(STARTS)
    assert [trial.number for trial in begun.trials()] == [0]
    asked = begun.next(6)
    assert asked is not None
    assert asked.number == 1, "no trial is begun twice"
    assert searched(home, "tpe", 6, lambda number, when: None) == whole


def test_candidates_beside_the_space_teach_the_sampler_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path)
    trials = searched(home, "tpe", 12, lambda number, when: None)
    assert (trials[1].label, trials[1].values) == ("beside", {})
    assert trials[1].result.objective is not None
    explained = importances(home, kept_searches(home)[0].id)
    assert set(explained) <= {"method", "a", "b", "ties.density"}
    assert sum(explained.values()) == pytest.approx(1.0)


RANGE = {"from": 0.0, "to": 1.0}
ONE_OF_EACH: list[dict[str, Any]] = [
    {"method": "linear", "a": 0.5, "b": 0.5},
    {"method": "ties", "a": 0.4, "b": 0.4, "ties.density": 0.5},
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("knobs", "methods", "names"),
    [
        ({"a": RANGE}, [], []),
        ({"a": RANGE, "b": RANGE}, [], []),
        ({"a": RANGE, "b": RANGE, "c": [1, 2]}, [], ["c"]),
        ({"a": RANGE, "b": {"from": 0.0, "to": 0.1, "step": 1.0}}, [], ["b"]),
        (
            {"a": RANGE, "b": RANGE},
            ["linear", {"ties": {"density": RANGE}}],
            ["method", "ties.density"],
        ),
    ],
)
def test_cma_es_says_what_it_leaves_to_chance(
    knobs: dict[str, Any], methods: list[Any], names: list[str], tmp_path: Path
) -> None:
    space = Space.model_validate({"knobs": knobs, "methods": methods})
    assert left_to_chance(space) == names
    each = study(Home(tmp_path), "cma-es", space)
    begun = [Start("", point) for point in ONE_OF_EACH if methods]
    each.begin(begun)
    for _ in range(5):
        asked = each.next(5)
        assert asked is not None
        together = asked.token.relative_params.keys()
        each.tell(asked, result(asked))
    every = {METHOD, *(name for _, branch in space.branches for name in branch)}
    assert set(together) == every - {METHOD} - set(names)


def test_a_search_may_be_looked_at_while_it_begins(tmp_path: Path) -> None:
    home = Home(tmp_path)
    study(home, "random")  # optuna is imported
    for place in range(2):
        other = Home(tmp_path / str(place))
        with ThreadPoolExecutor(4) as pool:
            begun = [pool.submit(study, other, "random") for _ in range(4)]
            assert len({each.result().id for each in begun}) == 1


def test_a_search_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    assert kept_searches(home) == []
    searched(home, "random", 3, lambda number, when: None)
    assert stat.S_IMODE(database(home).stat().st_mode) == 0o600
    [kept] = kept_searches(home)
    assert (kept.name, len(kept.trials)) == ("s", 3)
