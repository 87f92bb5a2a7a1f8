"""The trials of a search in MLflow while it runs: each once, whatever becomes of the server."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

import pytest

from flows.steps.trials_in_mlflow import TrialsInMlflow
from merge_core.homes.home import Home
from tasks.registry.client import TAG, default_tracking_uri, open_registry
from tasks.search import record
from tasks.search.record import SearchRun, record_search
from tasks.search.trial import Result, Trial
from tests.support.processes import wait_until
from tests.support.stack import free_port

pytestmark = pytest.mark.slow


def trial(number: int) -> Trial:
    result = Result(outcome="whole", recipe=f"r{number}", objective=0.1 * number)
    return Trial(number=number, values={"weight": 0.1 * number}, result=result)


def search_run(uri: str) -> SearchRun:
    return SearchRun(uri, "mergeflow", "sweep", "sweep/0123", {"sampler": "grid"})


def runs(uri: str, kind: str) -> list[Any]:
    with open_registry(uri) as registry:
        [experiment] = registry.client.search_experiments(filter_string="name = 'mergeflow'")
        found = registry.client.search_runs(
            [experiment.experiment_id], f"tags.`{TAG}kind` = '{kind}'"
        )
    return list(found)


def numbers(uri: str) -> list[str]:
    return sorted(run.data.tags[TAG + "trial"] for run in runs(uri, "trial"))


def test_a_trial_is_there_before_the_next_one_ends(home: Home) -> None:
    uri = default_tracking_uri(home)
    record_search(search_run(uri), [], {}, is_over=False)
    with TrialsInMlflow(search_run(uri)) as in_mlflow:
        for number in range(2):
            in_mlflow.note(trial(number))
            assert wait_until(lambda number=number: len(numbers(uri)) == number + 1, seconds=60)
        [search] = runs(uri, "search")
        assert search.info.status == "RUNNING"
        in_mlflow.end([trial(0), trial(1), trial(2)], {"search/search.md": "# Search"})
    assert numbers(uri) == ["0", "1", "2"]
    [search] = runs(uri, "search")
    assert (search.info.status, search.data.metrics["trials"]) == ("FINISHED", 3.0)
    assert {run.data.tags["mlflow.parentRunId"] for run in runs(uri, "trial")} == {
        search.info.run_id
    }


def test_a_search_that_was_killed_while_it_wrote_writes_no_trial_twice(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = default_tracking_uri(home)

    class Killed(BaseException):
        """In place of a signal."""

    def killed(*_: Any) -> None:
        raise Killed

    for victim in ("as_metrics", "finish"):
        with monkeypatch.context() as patched:
            patched.setattr(record, victim, killed)
            with pytest.raises(Killed):
                record_search(search_run(uri), [trial(0), trial(1)], {}, is_over=False)
    with TrialsInMlflow(search_run(uri)) as in_mlflow:
        in_mlflow.note(trial(2))
        in_mlflow.end([trial(0), trial(1), trial(2)], {})
    assert numbers(uri) == ["0", "1", "2"]
    for run in runs(uri, "trial"):
        assert run.data.metrics["objective"] == pytest.approx(
            0.1 * int(run.data.tags[TAG + "trial"])
        )
        assert run.info.status == "FINISHED"


def test_a_larger_budget_goes_on_in_the_same_run(home: Home) -> None:
    uri = default_tracking_uri(home)
    record_search(search_run(uri), [trial(0)], {}, is_over=True)
    record_search(search_run(uri), [trial(0), trial(1)], {}, is_over=False)
    [search] = runs(uri, "search")
    assert search.info.status == "RUNNING"
    record_search(search_run(uri), [trial(0), trial(1)], {}, is_over=True)
    [search] = runs(uri, "search")
    assert search.info.status == "FINISHED"
    assert search.data.metrics["trials"] == 2.0


def test_a_server_that_does_not_answer_is_told_of_once_and_stops_nothing(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = search_run(f"http://127.0.0.1:{free_port()}")
    with caplog.at_level(logging.WARNING), TrialsInMlflow(nobody) as in_mlflow:
        for number in range(3):
            began = time.monotonic()
            in_mlflow.note(trial(number))
            assert time.monotonic() - began < 0.1, "a trial waits for nothing"
            time.sleep(0.3)
        assert caplog.text.count("they are written later") == 1
        in_mlflow.end([trial(number) for number in range(3)], {})
    assert caplog.text.count("the same command writes them") == 1
    uri = default_tracking_uri(home)
    record_search(replace(nobody, tracking_uri=uri), [trial(0)], {}, is_over=True)
    assert numbers(uri) == ["0"]
