"""The form of a search: what Prefect checks of it, and the search that it stands for."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from flows.merge_from_form import search
from flows.settings.search_form import SearchForm
from merge_core.errors import RecipeError
from merge_core.homes.home import Home

FILLED = {"name": "sweep", "base": "./base", "models": [{"model": "./code"}, {"model": "./prose"}]}
SCHEMA = parameter_schema(search).model_dump_for_openapi()


def form(**changes: Any) -> SearchForm:
    return SearchForm.model_validate({**FILLED, **changes})


def test_the_least_that_is_filled_in_is_a_sweep_of_nine_weights(home: Home) -> None:
    assert validate(FILLED, SCHEMA) == []
    found = form().pipeline(form().read(home))
    assert [start.values["weight"] for start in found.starts] == [k / 10 for k in range(1, 10)]
    assert found.search.full
    assert found.recipe.merge_method == "task_arithmetic"


def test_the_page_shows_two_rows_for_models_and_an_empty_one_counts_for_nothing(home: Home) -> None:
    rows = SCHEMA["properties"]["models"]["default"]
    assert rows == [{"model": ""}, {"model": ""}]
    filled = {"models": [{"model": "./code"}, *rows]}
    assert validate(FILLED | filled, SCHEMA) == []
    assert [each.model for each in form(**filled).read(home).recipe.models] == ["./code"]
    with_a_recipe = form(models=rows, base="", recipe="merge_method: linear\nmodels: [./a, ./b]")
    assert len(with_a_recipe.read(home).recipe.models) == 2


def test_without_a_base_the_models_are_averaged(home: Home) -> None:
    assert form(base="").read(home).recipe.merge_method == "linear"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampler": "bayes"}, "'bayes' is not one of"),
        ({"low": 11}, "'a number between -10 and 10' was expected"),
        ({"trials": 0}, "'a whole number from 1 to 10000' was expected"),
    ],
)
def test_a_wrong_value_is_told_at_its_field(changes: dict[str, Any], said: str) -> None:
    [error] = validate(FILLED | changes, SCHEMA)
    assert said in error.message


def test_a_whole_space_takes_the_place_of_the_weights(home: Home) -> None:
    space = "space: {weight: [0.3, 0.5]}\nmethods: [ties, task_arithmetic]"
    found = form(space=space, sampler="tpe", trials=7)
    pipeline = found.pipeline(found.read(home))
    assert [method.name for method in pipeline.search.methods] == ["ties", "task_arithmetic"]
    assert pipeline.trials == 7
    with pytest.raises(RecipeError, match="'spaces' is no part of a space"):
        form(space="spaces: {weight: [0.3]}").pipeline(found.read(home))


def test_a_greedy_soup_needs_models_and_a_base_and_no_weight(home: Home) -> None:
    found = form(sampler="greedy-soup")
    pipeline = found.pipeline(found.read(home))
    pipeline.check_space()
    assert (pipeline.recipe.merge_method, pipeline.trials) == ("linear", 3)


def test_a_range_that_makes_no_grid_names_what_is_missing(home: Home) -> None:
    found = form(step=0)
    with pytest.raises(RecipeError, match="a grid needs a `step`"):
        found.pipeline(found.read(home))
