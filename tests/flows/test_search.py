"""A search on real models: its trials, its honesty, and that it can be killed at any moment."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli.program import run
from flows.merge_from_form import search as search_form
from flows.model_zoo import Zoo
from flows.search import SearchOutcome, search_merges
from flows.settings.search import load_search
from flows.stack.prefect_session import PrefectSession
from merge_core.homes.home import Home
from tasks.audit.audit import audit_version
from tasks.registry.client import TAG, default_tracking_uri, open_registry
from tasks.reproduction.reproduce import reproduce
from tasks.search.sampling import kept_searches
from tasks.search.trial import Trial
from tests.flows.test_merge import markdown_of

pytestmark = pytest.mark.slow


def search_file(directory: Path, zoo: Zoo, **changes: Any) -> Path:
    """A search over the tiny models, on two quick tasks."""
    values: dict[str, Any] = {
        "name": "tiny",
        "recipe": {
            "merge_method": "task_arithmetic",
            "base_model": str(zoo.base),
            "models": [
                {"model": str(zoo.directory / name), "parameters": {"weight": 0.5}}
                for name in ("code-expert", "prose-expert")
            ],
        },
        "search": {
            "budget": {"trials": 10},
            "space": {"weight": {"from": 0.0, "to": 2.0}},
        },
        "evaluate": {"suite": str(zoo.suite)},
        "register": {"model": "tiny"},
    }
    values["search"] |= changes
    path = directory / "search.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def found(path: Path, home: Home) -> SearchOutcome:
    search, beside = load_search(path)
    state = search_merges(search, str(beside), return_state=True)
    outcome: SearchOutcome = state.result()
    return outcome


def said(trials: list[Trial]) -> list[Any]:
    """All that does not depend on the clock."""
    return [
        (each.number, each.values, each.label, each.result.model_dump(exclude={"seconds", "known"}))
        for each in trials
    ]


def finished_trials(database: Path) -> int:
    """As anybody sees them who reads the file."""
    if not database.exists():
        return 0
    query = "SELECT count(*) FROM trials WHERE state IN ('COMPLETE', 'FAIL')"
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        try:
            return int(connection.execute(query).fetchone()[0])
        except sqlite3.OperationalError:  # its tables are being made
            return 0


def test_a_search_finds_decides_elsewhere_and_shows_what_it_did(
    tiny_zoo: Zoo, home: Home, prefect: PrefectSession, tmp_path: Path
) -> None:
    path = search_file(tmp_path, tiny_zoo)
    search, beside = load_search(path)
    state = search_merges(search, str(beside), return_state=True)
    outcome: SearchOutcome = state.result()
    [kept] = kept_searches(home)
    assert [trial.number for trial in kept.trials] == list(range(10))
    assert kept.trials[0].label == "mean of equal weights"
    whole = [trial for trial in kept.trials if trial.result.outcome == "whole"]
    assert outcome.best == max(whole, key=lambda trial: trial.result.objective or 0)
    lost = [trial for trial in kept.trials if trial.result.outcome == "lost"]
    for trial in lost:
        assert 0 < trial.result.documents < trial.result.of_documents
    assert not list(Path("/dev/shm").glob("mergeflow-*")), "candidates are removed"
    assert not list(home.objects.glob("*"))[1:], "the winner alone is in the store"

    decision = outcome.outcome.decision
    assert decision.candidates == outcome.candidates
    assert f"chosen among {outcome.candidates} candidate" in decision.reasons[-1]
    page = markdown_of(state)["tiny-search"]
    assert "](data:image/png;base64," in page
    assert "| 0 |" in page
    with open_registry(default_tracking_uri(home)) as registry:
        [experiment] = registry.client.search_experiments(filter_string="name = 'mergeflow'")
        runs = registry.client.search_runs([experiment.experiment_id])
        kinds = [run.data.tags.get(TAG + "kind") for run in runs]
        assert kinds.count("trial") == 10
        [parent] = [run for run in runs if run.data.tags.get(TAG + "kind") == "search"]
        for run in runs:
            if run.data.tags.get(TAG + "kind") == "trial":
                assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        [merge] = [run for run in runs if run.data.tags.get(TAG + "kind") == "merge"]
        assert merge.data.tags[TAG + "candidates"] == str(outcome.candidates)
        files = registry.client.list_artifacts(merge.info.run_id, "search")
        assert {"search/sweep.png", "search/best-recipe.yaml"} <= {file.path for file in files}

    assert outcome.outcome.registration is not None
    winner = f"models:/tiny/{outcome.outcome.registration.candidate.version}"
    assert audit_version(home, winner, default_tracking_uri(home)).of("fails") == []
    assert reproduce(home, winner, default_tracking_uri(home)).holds

    again = found(path, home)
    assert again.best == outcome.best
    assert kept_searches(home) == [kept], "a finished trial is never paid twice"
    more = found(search_file(tmp_path, tiny_zoo, budget={"trials": 12}), home)
    assert said(kept_searches(home)[0].trials)[:10] == said(kept.trials)
    assert more.candidates >= outcome.candidates


def test_another_search_pays_for_no_merge_that_is_known(
    tiny_zoo: Zoo, home: Home, prefect: PrefectSession, tmp_path: Path
) -> None:
    space = {"weight": [0.3, 0.5]}
    path = search_file(tmp_path, tiny_zoo, space=space, sampler="grid", full=True)
    found(path, home)
    path = search_file(tmp_path, tiny_zoo, space=space, sampler="grid", full=True, seed=1)
    found(path, home)
    first, second = kept_searches(home)
    assert [trial.result.known for trial in first.trials] == [False, False]
    assert [trial.result.known for trial in second.trials] == [True, True]
    documents = {trial.result.documents for trial in first.trials}
    assert documents == {first.trials[0].result.of_documents}


def test_the_best_recipe_gives_the_same_bytes_from_any_directory(
    tiny_zoo: Zoo,
    home: Home,
    prefect: PrefectSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = search_file(tmp_path, tiny_zoo, space={"weight": [0.4]}, sampler="grid")
    beside = os.path.relpath(tiny_zoo.directory, tmp_path)
    path.write_text(path.read_text().replace(f"model: {tiny_zoo.directory}", f"model: {beside}"))
    assert f"base_model: {beside}" in path.read_text()
    outcome = found(path, home)
    monkeypatch.chdir("/")
    assert run(["merge", outcome.recipe, str(tmp_path / "again")]) == 0
    [judged] = home.objects.glob("*/model.safetensors")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == judged.read_bytes()


def test_several_objectives_give_a_front(
    tiny_zoo: Zoo, home: Home, prefect: PrefectSession, tmp_path: Path
) -> None:
    space = {f"models[{index}].weight": {"from": 0.0, "to": 1.0} for index in (0, 1)}
    outcome = found(search_file(tmp_path, tiny_zoo, space=space, sampler="nsga-ii"), home)
    assert outcome.best.result.outcome == "whole"
    trials = kept_searches(home)[0].trials
    assert {trial.result.outcome for trial in trials} == {"whole"}
    assert all(len(trial.result.tasks) == 2 for trial in trials)


def test_a_sweep_is_started_from_the_form(
    tiny_zoo: Zoo, home: Home, prefect: PrefectSession
) -> None:
    experts = [{"model": str(tiny_zoo.directory / f"{name}-expert")} for name in ("code", "prose")]
    filled = {"name": "form", "base": str(tiny_zoo.base), "models": experts, "low": 0.3}
    filled |= {"high": 0.5, "step": 0.1, "suite": str(tiny_zoo.suite), "registered_model": "form"}
    state = search_form(**filled, return_state=True)
    outcome: SearchOutcome = state.result()
    assert outcome.candidates == 3
    assert [trial.values["weight"] for trial in kept_searches(home)[0].trials] == [0.3, 0.4, 0.5]
    assert "](data:image/png;base64," in markdown_of(state)["form-search"]


@pytest.mark.timeout(1500)
def test_a_search_killed_at_ten_moments_ends_in_the_same_trials(
    tiny_zoo: Zoo, tmp_path: Path
) -> None:
    path = search_file(tmp_path, tiny_zoo)

    def command(home: Path) -> subprocess.Popen[bytes]:
        environment = os.environ | {"MERGEFLOW_HOME": str(home), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "flows.cli", "search", str(path), "--json"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    undisturbed = command(tmp_path / "a")
    out, _ = undisturbed.communicate()
    assert undisturbed.returncode in (0, 3)
    trials = kept_searches(Home(tmp_path / "a"))[0].trials
    wanted = said(trials)
    a_trial = sum(trial.result.seconds.total for trial in trials) / len(trials)

    chance = random.Random(4)
    for finished in range(10):
        running = command(tmp_path / "b")
        while finished_trials(tmp_path / "b" / "search.db") < finished:
            assert running.poll() is None
            time.sleep(0.05)
        time.sleep(chance.uniform(0.0, a_trial))
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    last = command(tmp_path / "b")
    again, _ = last.communicate()
    assert last.returncode == undisturbed.returncode
    assert said(kept_searches(Home(tmp_path / "b"))[0].trials) == wanted
    one, other = json.loads(out), json.loads(again)
    assert one["outcome"]["serve_digest"] == other["outcome"]["serve_digest"]
    assert not list(Path("/dev/shm").glob("mergeflow-*")), "what kills left is removed"
