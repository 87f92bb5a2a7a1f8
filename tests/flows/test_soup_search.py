"""A greedy soup over models: a search that goes on, and is decided on other documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.model_zoo import Zoo
from flows.stack.prefect_session import PrefectSession
from merge_core.homes.home import Home
from merge_core.recipes.loading import load_recipe
from tasks.search.sampling import kept_searches
from tests.flows.test_search import found, said, search_file

pytestmark = pytest.mark.slow


def soup_file(directory: Path, zoo: Zoo, **changes: Any) -> Path:
    path = search_file(directory, zoo)
    values = yaml.safe_load(path.read_text())
    experts = [{"model": str(zoo.directory / f"{name}-expert")} for name in ("code", "prose")]
    values["recipe"] = {"merge_method": "linear", "base_model": str(zoo.base), "models": experts}
    values["search"] = {"sampler": "greedy-soup"} | changes
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_soup_of_models_is_chosen_by_one_half_and_decided_on_the_other(
    tiny_zoo: Zoo, home: Home, prefect: PrefectSession, tmp_path: Path
) -> None:
    found(soup_file(tmp_path, tiny_zoo, budget={"trials": 2}), home)
    alone = kept_searches(home)[0].trials
    assert [trial.label for trial in alone] == ["prose-expert alone", "code-expert alone"]

    outcome = found(soup_file(tmp_path, tiny_zoo), home)
    [kept] = kept_searches(home)
    assert said(kept.trials)[:2] == said(alone), "each alone is paid once"
    assert len(kept.trials) == outcome.candidates == 3
    assert outcome.best == max(kept.trials, key=lambda trial: trial.result.objective or 0.0)
    last = kept.trials[-1].result
    better = (last.objective or 0.0) > max(trial.result.objective or 0.0 for trial in alone)
    assert len(load_recipe(Path(outcome.recipe)).models) == (2 if better else 1)
    decision = outcome.outcome.decision
    assert decision.candidates == 3
    assert decision.reasons[-1].endswith("the suite's other half, none of which decides here")
