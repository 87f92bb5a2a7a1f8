"""CMA-ES without pickles: as Optuna's own goes on, and nothing of it is in the database."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.samplers import CmaEsSampler

from merge_core.homes.home import Home
from tasks.search.replayed_cma_es import ReplayedCmaEsSampler
from tasks.search.sampling import Study
from tasks.search.space import Space
from tasks.search.storage import database
from tasks.search.trial import Result

TRIALS = 26


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", 0.0, 1.0)
    y = trial.suggest_float("y", 0.001, 1.0, log=True)
    z = trial.suggest_float("z", 0.0, 1.0, step=0.1)
    return -((x - 0.3) ** 2) - (y - 0.01) ** 2 - (z - 0.6) ** 2


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_replayed_state_is_the_one_that_optuna_keeps_as_a_pickle() -> None:
    """One process for the whole search, so that both hold the same."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=CmaEsSampler(seed=3))
    study.optimize(objective, n_trials=TRIALS)
    kept = [trial for trial in study.trials if any("optimizer" in a for a in trial.system_attrs)]
    assert len(kept) >= 2, "several generations"
    pickled = CmaEsSampler(seed=0)._restore_optimizer(study.trials)
    trial = study.ask()
    ours = ReplayedCmaEsSampler(seed=0)
    space = ours.infer_relative_search_space(study, trial)
    drawn = ours.sample_relative(study, trial, space)
    assert set(drawn) == {"x", "y", "z"}
    replayed = ours._restore_optimizer(study.trials[:-1])
    assert replayed.generation == pickled.generation
    for name in ("_mean", "_C", "_sigma", "_p_sigma", "_pc"):
        assert np.allclose(getattr(replayed, name), getattr(pickled, name), rtol=1e-12), name


@pytest.mark.slow
def test_no_pickle_is_in_the_database_after_several_generations(tmp_path: Path) -> None:
    knobs = {"x": {"from": 0.0, "to": 1.0}, "y": {"from": 0.001, "to": 1.0, "log": True}}
    space = Space.model_validate({"knobs": knobs})
    home = Home(tmp_path)
    study = Study(home, "s", "d" * 64, {}, space=space, sampler="cma-es", seed=3)
    near = []
    while asked := study.next(TRIALS):
        distance = (float(asked.values["x"]) - 0.3) ** 2 + (float(asked.values["y"]) - 0.01) ** 2
        near.append(distance)
        study.tell(asked, Result(outcome="whole", recipe=str(asked.number), objective=-distance))
    assert min(near[-6:]) < min(near[:6]), "it learns"
    with sqlite3.connect(database(home)) as connection:
        query = "SELECT key, value_json FROM trial_system_attributes"
        rows = connection.execute(query).fetchall()
    generations = [int(value) for key, value in rows if key == "cma:generation"]
    assert max(generations) >= 3
    assert {key for key, _ in rows} == {"cma:generation"}
