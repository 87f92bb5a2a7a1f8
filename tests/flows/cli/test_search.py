"""What `mergeflow search show` shows, and that one search is not run twice at once."""

from __future__ import annotations

import json

import pytest

from flows.cli import program
from flows.steps.searching import alone
from merge_core.errors import StepError
from merge_core.homes.home import Home
from tasks.search.sampling import Study
from tasks.search.space import Space
from tasks.search.trial import Result, Seconds


def kept(home: Home, name: str = "sweep") -> None:
    """A search with a trial of each outcome."""
    space = Space.model_validate({"knobs": {"alpha": {"from": 0.1, "to": 0.9}}})
    study = Study(home, name, "d" * 64, {"name": name}, space=space, sampler="random", seed=0)
    whole = Result(
        outcome="whole",
        recipe="r1",
        objective=0.05,
        low=0.01,
        high=0.09,
        documents=600,
        of_documents=600,
        seconds=Seconds(merging=1.0, starting=1.0, forward=8.0),
    )
    lost = whole.model_copy(
        update={
            "outcome": "lost",
            "recipe": "r2",
            "objective": -0.2,
            "low": None,
            "high": None,
            "documents": 40,
        }
    )
    failed = Result(outcome="failed", recipe="", why="the weights overflow bfloat16")
    for result in (whole, lost, failed):
        asked = study.next(3)
        assert asked is not None
        study.tell(asked, result)


def test_a_search_is_shown_with_its_best_and_what_its_time_went_into(
    home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    kept(home)
    assert program.run(["search", "show", "sweep"]) == 0
    out = capfd.readouterr().out
    assert "+0.0500 (+0.0100 to +0.0900)" in out
    assert "40 of 600" in out
    assert "the weights overflow bfloat16" in out
    assert "best of 2 candidates: trial 0, alpha 0." in out
    assert "time: start-up 10 %, merging 10 %, forward passes 80 % of 20.0 s for 3 trials" in out
    assert program.run(["search", "show", "sweep", "--json"]) == 0
    given = json.loads(capfd.readouterr().out)
    assert [trial["result"]["outcome"] for trial in given["trials"]] == ["whole", "lost", "failed"]


def test_a_search_that_is_not_there_is_started_or_called_by_its_name(
    home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    assert program.run(["search", "show"]) == 2
    assert "say which search: `mergeflow search show NAME`" in capfd.readouterr().err
    assert program.run(["search", "show", "sweep"]) == 2
    assert "start one: `mergeflow search FILE`" in capfd.readouterr().err
    kept(home)
    assert program.run(["search", "show", "swep"]) == 2
    assert "did you mean 'sweep'?" in capfd.readouterr().err
    assert program.run(["search", "show", "sweep"]) == 0


def test_one_search_runs_in_one_process(home: Home) -> None:
    with (
        alone(home, "a" * 64),
        pytest.raises(StepError, match="runs already") as error,
        alone(home, "a" * 64),
    ):
        raise AssertionError("both hold it")
    assert "wait until it ends" in str(error.value.mend)
    with alone(home, "a" * 64), alone(home, "b" * 64):
        pass
