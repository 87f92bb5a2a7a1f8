"""A candidate that failed through no fault of its own is tried again by the same command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.model_zoo import Zoo
from flows.stack.prefect_session import PrefectSession
from merge_core.errors import CompatibilityError, MergeflowError, OutputError, StepError
from merge_core.homes.home import Home
from tasks.candidate import Measured, Workshop
from tasks.registry.client import TAG, default_tracking_uri, open_registry
from tasks.search.sampling import kept_searches
from tests.flows.test_search import found, said, search_file

pytestmark = pytest.mark.slow

FULL = OutputError("the disk is full")


def failing(
    monkeypatch: pytest.MonkeyPatch, errors: dict[int, MergeflowError]
) -> pytest.MonkeyPatch:
    """Candidates, counted from 0, that cannot be merged just now."""
    measured, asked = Workshop.measured, iter(range(1000))

    def or_not(self: Workshop, *arguments: Any) -> Measured:
        if error := errors.get(next(asked)):
            raise error
        return measured(self, *arguments)

    monkeypatch.setattr(Workshop, "measured", or_not)
    return monkeypatch


def trials_in_mlflow(home: Home) -> dict[str, str]:
    """Their outcomes by number."""
    with open_registry(default_tracking_uri(home)) as registry:
        [experiment] = registry.client.search_experiments(filter_string="name = 'mergeflow'")
        runs = registry.client.search_runs([experiment.experiment_id])
        tags = [run.data.tags for run in runs if run.data.tags.get(TAG + "kind") == "trial"]
    return {each[TAG + "trial"]: each[TAG + "outcome"] for each in tags}


def test_a_full_disk_costs_no_candidate(
    tiny_zoo: Zoo, home: Home, prefect: PrefectSession, tmp_path: Path
) -> None:
    path = search_file(tmp_path, tiny_zoo, full=True, budget={"trials": 7})
    unfit = CompatibilityError("these do not belong together")
    with pytest.MonkeyPatch.context() as patched:
        failing(patched, {1: FULL, 5: FULL, 6: unfit})
        found(path, home)
    assert [trial.number for trial in kept_searches(home)[0].trials] == [0, 2, 3, 4, 6]
    assert set(trials_in_mlflow(home)) == {"0", "2", "3", "4", "6"}

    outcome = found(path, home)
    trials = kept_searches(home)[0].trials
    assert [trial.number for trial in trials] == list(range(7))
    outcomes = [trial.result.outcome for trial in trials]
    assert outcomes == ["whole"] * 6 + ["failed"], "what is its own fault stays"
    assert outcome.candidates == 6
    assert trials_in_mlflow(home) == {str(k): each for k, each in enumerate(outcomes)}


def test_a_search_that_began_with_a_full_disk_begins_again(
    tiny_zoo: Zoo, home: Home, prefect: PrefectSession, tmp_path: Path
) -> None:
    path = search_file(tmp_path, tiny_zoo, full=True, budget={"trials": 6})
    with pytest.MonkeyPatch.context() as patched:
        failing(patched, dict.fromkeys(range(9), FULL))
        with pytest.raises(StepError, match="none of 5 candidates") as error:
            found(path, home)
    assert "the disk is full" in str(error.value)
    found(path, home)
    trials = kept_searches(home)[0].trials
    assert [trial.result.outcome for trial in trials] == ["whole"] * 6

    undisturbed = search_file(tmp_path, tiny_zoo, full=True, budget={"trials": 6})
    undisturbed.write_text(undisturbed.read_text().replace("name: tiny", "name: other"))
    found(undisturbed, home)
    assert said(kept_searches(home)[1].trials) == said(trials)
