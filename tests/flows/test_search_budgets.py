"""Searches that end by a budget and go on with a larger one, or work on two candidates at once."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from flows.model_zoo import Zoo
from flows.stack.prefect_session import PrefectSession
from merge_core.homes.home import Home
from tasks.search.sampling import kept_searches
from tests.flows.test_search import found, said, search_file

pytestmark = pytest.mark.slow


def test_minutes_and_documents_end_a_search_and_a_larger_budget_goes_on(
    tiny_zoo: Zoo, home: Home, prefect: PrefectSession, tmp_path: Path
) -> None:
    of: dict[str, Any] = {"full": True, "sampler": "random"}
    found(search_file(tmp_path, tiny_zoo, budget={"documents": 300}, **of), home)
    [kept] = kept_searches(home)
    documents = [trial.result.documents for trial in kept.trials]
    assert sum(documents[:-1]) < 300 <= sum(documents)

    spent = sum(trial.result.seconds.total for trial in kept.trials)
    seconds = spent + 2.0
    found(search_file(tmp_path, tiny_zoo, budget={"minutes": seconds / 60}, **of), home)
    [more] = kept_searches(home)
    took = [trial.result.seconds.total for trial in more.trials]
    assert sum(took[:-1]) < seconds <= sum(took), "minutes of earlier attempts count"
    assert said(more.trials)[: len(documents)] == said(kept.trials)
    assert len(more.trials) > len(documents)

    found(search_file(tmp_path, tiny_zoo, budget={"documents": 300}, **of), home)
    assert kept_searches(home) == [more], "a budget that is spent buys nothing"


@pytest.mark.parametrize("parallel", [1, 2])
def test_minutes_do_not_go_on_for_ever_in_a_space_that_is_known(
    parallel: int, tiny_zoo: Zoo, home: Home, prefect: PrefectSession, tmp_path: Path
) -> None:
    """A candidate that is known costs nothing, so the budget alone would never end."""
    of: dict[str, Any] = {"sampler": "random", "space": {"weight": [0.3, 0.5]}}
    path = search_file(tmp_path, tiny_zoo, budget={"minutes": 60}, **of)
    values = yaml.safe_load(path.read_text())
    values["evaluate"]["parallel"] = parallel
    path.write_text(yaml.safe_dump(values))
    outcome = found(path, home)
    trials = kept_searches(home)[0].trials
    assert {trial.values["weight"] for trial in trials if trial.values} == {0.3, 0.5}
    assert outcome.candidates == 5, "two of the space, and three other sums"
    assert len(trials) < 20
    found(path, home)
    assert kept_searches(home)[0].trials == trials


def evaluators_of_this_process() -> list[psutil.Process]:
    """The processes that evaluate; not what they forked off."""
    children = psutil.Process().children()
    return [each for each in children if "tasks.evaluation" in " ".join(each.cmdline())]


def test_two_workers_finish_the_same_trials_though_one_is_killed(
    tiny_zoo: Zoo, home: Home, prefect: PrefectSession, tmp_path: Path
) -> None:
    def of(name: str, parallel: int) -> Path:
        budget = {"trials": 8}
        path = search_file(tmp_path, tiny_zoo, sampler="random", full=True, budget=budget)
        values = yaml.safe_load(path.read_text())
        values["name"], values["evaluate"]["parallel"] = name, parallel
        path.write_text(yaml.safe_dump(values))
        return path

    killed: list[int] = []

    def kill_one() -> None:
        """As soon as both have evaluated something."""
        while not killed:
            time.sleep(0.02)
            kept = kept_searches(home)
            if kept and len(kept[0].trials) >= 3:
                working = [each for each in evaluators_of_this_process() if each.children()]
                if working:
                    killed.append(working[0].pid)
                    working[0].kill()

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    found(of("two", 2), home)
    killer.join(5)
    assert killed
    [kept] = kept_searches(home)
    assert sorted(trial.number for trial in kept.trials) == list(range(8))
    assert {trial.result.outcome for trial in kept.trials} == {"whole"}

    found(of("two", 2), home)
    assert kept_searches(home) == [kept], "none is paid twice"
    found(of("one", 1), home)
    _, alone = kept_searches(home)
    by_number = sorted(kept.trials, key=lambda trial: trial.number)
    assert [trial.values for trial in alone.trials] == [trial.values for trial in by_number]
    assert all(trial.result.known for trial in alone.trials)
