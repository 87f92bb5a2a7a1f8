"""A search's file: what it may say, what is told of its mistakes, what makes it another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.settings.pipeline import load_pipeline
from flows.settings.search import SearchPipeline, load_search
from merge_core.errors import RecipeError
from tasks.evaluation.suite import Split, load_suite
from tasks.processes.shipped_files import shipped
from tasks.search.first import MEAN

Change = Callable[[dict[str, Any]], Any]
EXAMPLES = sorted((shipped("configs") / "searches").glob("*.yaml"))


def written(tmp_path: Path, change: Change = lambda values: None) -> Path:
    values = yaml.safe_load((shipped("configs") / "searches" / "zoo-tpe.yaml").read_text())
    change(values)
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def loaded(tmp_path: Path, change: Change = lambda values: None) -> SearchPipeline:
    return load_search(written(tmp_path, change))[0]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_searches(path: Path) -> None:
    assert load_search(path)[0].name == path.stem


def test_nine_points_of_a_sweep_take_one_line() -> None:
    [sweep] = [path for path in EXAMPLES if path.stem == "zoo-sweep"]
    search, _ = load_search(sweep)
    assert search.trials == len(search.starts) == 9
    assert search.search.full


def test_a_search_without_a_budget_has_thirty_trials_and_a_timed_one_has_no_number(
    tmp_path: Path,
) -> None:
    def of(budget: dict[str, Any]) -> int | None:
        return loaded(tmp_path, lambda values: values["search"].update(budget=budget)).trials

    assert of({}) == 30
    assert of({"trials": 5}) == 5
    assert of({"minutes": 10}) is None
    assert of({"documents": 5000}) is None


def test_it_begins_with_the_mean(tmp_path: Path) -> None:
    assert loaded(tmp_path).starts[0].label == MEAN


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.update(sampler="bayes"), "search.sampler: 'bayes' is not known here"),
        (lambda s: s.update(sampler="grid"), "search: a grid needs a `step` in each range"),
        (lambda s: s.update(space={}, methods=[]), "search: the space is empty"),
        (lambda s: s.update(methods=["ties", "ties"]), "a method is listed twice"),
        (lambda s: s.update(methods=["tise"]), "did you mean 'ties'?"),
        (lambda s: s["space"].update(weight={"form": 0, "to": 1}), "did you mean 'from'?"),
        (lambda s: s["space"].update({"models[0].model": ["a"]}), "cannot be searched"),
        (lambda s: s.update(budget={"trials": 0}), "search.budget.trials: this must be at least 1"),
        (lambda s: s["space"].update(wieght=[1, 2]), "search.space.wieght: with 1"),
    ],
)
def test_a_mistake_is_told_with_its_place(change: Change, said: str, tmp_path: Path) -> None:
    path = written(tmp_path, lambda values: change(values["search"]))
    with pytest.raises(RecipeError) as error:
        load_search(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_a_place_that_the_recipe_has_not_is_written_into_it_first(tmp_path: Path) -> None:
    def search_a_knot(values: dict[str, Any]) -> None:
        values["search"] = {"space": {"models[0].weight[1]": [0.2, 0.3]}}

    with pytest.raises(RecipeError, match=r"no models\[0\]\.weight\[1\]") as error:
        load_search(written(tmp_path, search_a_knot))
    assert "write the place into the recipe" in str(error.value.mend)

    def with_the_gradient(values: dict[str, Any]) -> None:
        search_a_knot(values)
        values["recipe"]["models"][0]["parameters"]["weight"] = [0.1, 0.1]

    load_search(written(tmp_path, with_the_gradient))


def test_a_parameter_that_changes_nothing_is_exchanged_for_one_that_the_method_takes(
    tmp_path: Path,
) -> None:
    def of(word: str) -> Change:
        return lambda values: values.update(search={"space": {word: [0.2, 0.3]}})

    with pytest.raises(RecipeError, match="every value of it gives the same merge") as error:
        load_search(written(tmp_path, of("density")))
    assert "`mergeflow methods` lists them" in str(error.value.mend)
    load_search(written(tmp_path, of("lambda")))


def test_a_grid_of_too_many_points_takes_larger_steps(tmp_path: Path) -> None:
    def of(step: float) -> Change:
        knob = {"from": 0.1, "to": 0.9, "step": step}
        space = {f"models[{index}].weight": knob for index in (0, 1)}
        return lambda values: values.update(search={"space": space, "sampler": "grid"})

    with pytest.raises(RecipeError, match="more than 10000 points") as error:
        load_search(written(tmp_path, of(0.001)))
    assert "take larger steps" in str(error.value.mend)
    assert str(error.value.where) == f"{tmp_path / 'search.yaml'}: search.space"
    load_search(written(tmp_path, of(0.1)))


def a_soup(values: dict[str, Any]) -> None:
    values["search"] = {"sampler": "greedy-soup"}
    values["recipe"] = {
        "merge_method": "linear",
        "base_model": "./base",
        "models": [{"model": "./code"}, {"model": "./prose"}, {"model": "./law"}],
    }


def test_a_greedy_soup_tries_each_model_alone_and_then_with_others(tmp_path: Path) -> None:
    search = loaded(tmp_path, a_soup)
    assert [start.label for start in search.starts] == ["law alone", "prose alone", "code alone"]
    assert search.trials == 5

    def cut_short(values: dict[str, Any]) -> None:
        a_soup(values)
        values["search"]["budget"] = {"trials": 4}

    assert loaded(tmp_path, cut_short).trials == 4


def test_a_greedy_soup_has_no_space(tmp_path: Path) -> None:
    def with_a_space(values: dict[str, Any]) -> None:
        a_soup(values)
        values["search"]["space"] = {"weight": [0.3, 0.5]}

    with pytest.raises(RecipeError, match="chooses models, not parameters; take the space out"):
        loaded(tmp_path, with_a_space)


SOUPS: dict[str, tuple[dict[str, Any], str, str, dict[str, Any]]] = {
    "method": (
        {"merge_method": "task_arithmetic", "parameters": {"weight": 1}},
        "recipe.merge_method",
        "write linear",
        {"merge_method": "linear", "parameters": {}},
    ),
    "no_base": (
        {"base_model": None},
        "recipe.base_model",
        "name the checkpoint that the models were fine-tuned from",
        {"base_model": "./base"},
    ),
    "parameters": (
        {"parameters": {"normalize": True}},
        "recipe.parameters",
        "take this out",
        {"parameters": {}},
    ),
    "weights": (
        {"models": [{"model": "./code", "parameters": {"weight": 2}}, {"model": "./prose"}]},
        "recipe.models[0]",
        "list the fine-tunes alone, without `parameters`",
        {"models": [{"model": "./code"}, {"model": "./prose"}]},
    ),
    "base_as_model": (
        {"models": [{"model": "./code"}, {"model": "./base"}]},
        "recipe.models[1]",
        "list the fine-tunes alone",
        {"models": [{"model": "./code"}, {"model": "./prose"}]},
    ),
    "one_model": (
        {"models": [{"model": "./code"}]},
        "recipe.models",
        "list another fine-tune of this base",
        {"models": [{"model": "./code"}, {"model": "./prose"}]},
    ),
}
"""What is written, the place that is named, the mend, and what it makes of the recipe."""


@pytest.mark.parametrize("case", SOUPS)
def test_a_soup_that_is_refused_is_mended_as_it_says(case: str, tmp_path: Path) -> None:
    changes, where, mend, mended = SOUPS[case]

    def with_changes(made: dict[str, Any]) -> Change:
        def change(values: dict[str, Any]) -> None:
            a_soup(values)
            values["recipe"].update(made)

        return change

    with pytest.raises(RecipeError) as error:
        loaded(tmp_path, with_changes(changes))
    assert str(error.value.where).endswith(f": {where}")
    assert mend in str(error.value.mend)
    loaded(tmp_path, with_changes(changes | mended))


def test_a_pipeline_with_a_search_is_run_with_search(tmp_path: Path) -> None:
    path = written(tmp_path)
    with pytest.raises(RecipeError, match="a search, not a pipeline") as error:
        load_pipeline(path)
    assert "run it with `mergeflow search`" in str(error.value.mend)
    load_search(path)


def test_the_halves_share_no_document_and_follow_a_split_that_is_there(tmp_path: Path) -> None:
    search = loaded(tmp_path, lambda values: values["search"].update(halves=0.25))
    whole = load_suite("english-small")
    assert whole.split is None
    searching, deciding = search.halves(whole)
    assert (searching.part, deciding.part) == ("search", "decide")
    assert searching.split == deciding.split == Split(search=0.25)
    searching, _ = search.halves(whole.model_copy(update={"split": Split(search=0.7)}))
    assert searching.split == Split(search=0.7)


def test_the_budget_does_not_make_it_another_search_and_all_else_does(tmp_path: Path) -> None:
    suite = loaded(tmp_path).halves(load_suite("starter"))[0]

    def identity(change: Change = lambda values: None) -> str:
        return loaded(tmp_path, change).identity({}, suite)

    assert identity() == identity(lambda values: values["search"].update(budget={"trials": 99}))
    for change in (
        lambda s: s.update(seed=1),
        lambda s: s.update(sampler="random"),
        lambda s: s.update(full=True),
        lambda s: s["space"].update({"lambda": [0.5, 1.0]}),
    ):
        assert identity() != identity(lambda values, change=change: change(values["search"]))  # type: ignore[misc]


def test_a_form_and_a_file_are_one_model(tmp_path: Path) -> None:
    search = loaded(tmp_path)
    again = SearchPipeline.model_validate(search.model_dump(mode="json", by_alias=True))
    assert again == search
