"""What a search changes in a recipe: each kind of knob, at the place that it names and no other."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from merge_core.errors import RecipeError
from merge_core.recipes.loading import parse_recipe
from merge_core.recipes.recipe import Recipe
from tasks.search.first import MEAN, first_recipes, starts
from tasks.search.space import Knob, Space
from tasks.search.space_check import check_space


def template(method: str = "task_arithmetic", **changes: Any) -> Recipe:
    models = [
        {"model": "./code", "parameters": {"weight": 0.5}},
        {"model": "./prose", "parameters": {"weight": [0.1, 0.2, 0.3]}},
    ]
    recipe = {"merge_method": method, "base_model": "./base", "models": models}
    return parse_recipe(recipe | changes)


def space(methods: Any = (), **knobs: Any) -> Space:
    return Space.model_validate({"knobs": knobs, "methods": methods})


def of(knobs: dict[str, Any], methods: Any = ()) -> Space:
    return Space.model_validate({"knobs": knobs, "methods": methods})


def weights(recipe: Recipe) -> list[Any]:
    shared = recipe.parameters.get("weight")
    return [entry.parameters.get("weight", shared) for entry in recipe.models]


@pytest.mark.parametrize("word", ["weight", "alpha"])
def test_one_word_is_the_parameter_of_every_model(word: str) -> None:
    swept = of({word: {"from": 0.1, "to": 0.9, "step": 0.1}})
    points = swept.points()
    assert points is not None
    assert [point[word] for point in points] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert weights(swept.recipe(template(), points[2])) == [0.3, 0.3]


def test_alpha_is_itself_where_the_method_has_one() -> None:
    recipe = of({"alpha": [0.1, 0.3]}).recipe(template("ramplus_tl"), {"alpha": 0.3})
    assert recipe.parameters == {"alpha": 0.3}
    assert weights(recipe) == weights(template("ramplus_tl"))


def test_a_path_is_one_place() -> None:
    for name in ("models[0].weight", "models[0].parameters.weight"):
        found = of({name: [0.7, 0.8]}).recipe(template(), {name: 0.7})
        assert weights(found) == [0.7, [0.1, 0.2, 0.3]]


def test_a_knot_of_a_gradient_and_a_group_of_layers_have_paths() -> None:
    name = "models[1].weight[2]"
    assert weights(of({name: [0.9]}).recipe(template(), {name: 0.9}))[1] == [0.1, 0.2, 0.9]
    groups = [{"group": "attention", "value": 0.1}, {"value": [0.5, 0.6]}]
    grouped = template(models=[{"model": "./code", "parameters": {"weight": groups}}])
    name = "models[0].parameters.weight[1].value[0]"
    found = of({name: [0.2]}).recipe(grouped, {name: 0.2})
    assert found.models[0].parameters["weight"][0] == groups[0]
    assert found.models[0].parameters["weight"][1]["value"] == [0.2, 0.6]


def test_the_method_is_a_choice_and_brings_its_own_parameters() -> None:
    chosen = of({"weight": [0.3, 0.6]}, ["task_arithmetic", {"ties": {"density": [0.2, 0.5]}}])
    points = chosen.points()
    assert points is not None
    assert len(points) == 2 + 2 * 2
    assert {"method": "task_arithmetic", "weight": 0.3} in points
    recipe = chosen.recipe(template(), {"method": "ties", "weight": 0.6, "ties.density": 0.2})
    assert (recipe.merge_method, recipe.parameters) == ("ties", {"weight": 0.6, "density": 0.2})
    check_space(chosen, template())


def test_the_template_is_left_as_it_is() -> None:
    before = template()
    space(weight=[0.3]).recipe(before, {"weight": 0.3})
    assert before == template()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"from": 1, "to": 0.5}, "has to be below"),
        ({"from": 1}, "needs both"),
        ({"from": 0, "to": 1, "log": True}, "begins above 0"),
        ({"from": 0, "to": 1, "step": 1e-9}, "more than 10000"),
        ({"from": 0, "to": 1, "choices": [1]}, "keep one"),
        ([1, 1], "stands twice"),
        ([1, 1.0], "stands twice"),
        ([True, 1], "stands twice"),
        ([], "list of values to choose from is empty"),
        ([None, 0.5], "a value to choose is a number, a text"),
        ([[0.1, 0.2], 0.5], "has a path of its own"),
        (0.5, "must be a range"),
    ],
)
def test_a_knob_says_what_is_wrong_with_it(values: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Knob.model_validate(values)


def test_whole_steps_give_whole_numbers() -> None:
    assert Knob.model_validate({"from": 1, "to": 3, "step": 1}).points == (1, 2, 3)
    assert all(
        type(p) is int for p in Knob.model_validate({"from": 1, "to": 3, "step": 1}).points or ()
    )
    assert Knob.model_validate({"from": 0, "to": 1, "step": 0.3}).points == (0, 0.3, 0.6, 0.9)


@pytest.mark.parametrize(
    ("knobs", "where", "what"),
    [
        ({"models[7].weight": [1, 2]}, "models[7].weight", "the recipe has no models[7].weight"),
        ({"weight": [1, 2], "wieght": [1, 2]}, "wieght", "did you mean 'weight'"),
        ({"elect": ["mass", "count"]}, "elect", "gives the same merge"),
        ({"density": [0.1, 0.2]}, "density", "no effect"),
        ({"alpha": [1, 2], "weight": [1, 2]}, "weight", "alpha turns this, too"),
        (
            {"models[0].parameters.weight": [1, 2], "models[0].weight": [1, 2]},
            "models[0].weight",
            "turns this, too",
        ),
        (
            {"models[1].weight[0]": [1, 2], "models[1].weight": [1, 2]},
            "models[1].weight",
            "models[1].weight[0] turns this, too",
        ),
        (
            {"weight": [1, 2], "models[1].weight": [1, 2], "models[0].weight": [1, 2]},
            "weight",
            "models[0].weight and models[1].weight take its place",
        ),
    ],
)
def test_a_space_that_the_recipe_does_not_take_names_the_knob(
    knobs: dict[str, Any], where: str, what: str
) -> None:
    with pytest.raises(RecipeError) as error:
        check_space(of(knobs), template())
    assert error.value.where == f"search.space.{where}"
    assert what in error.value.what


def test_two_knobs_of_one_place_are_mended_by_keeping_one() -> None:
    both: dict[str, Any] = {"alpha": [1, 2], "weight": [1, 2]}
    with pytest.raises(RecipeError) as error:
        check_space(of(both), template())
    assert error.value.mend == "keep one of the two"
    for kept in both:
        check_space(of({kept: both[kept]}), template())
    chosen = of({"density": [0.1, 0.2]}, ["task_arithmetic", {"ties": {"density": [0.5, 1.0]}}])
    check_space(chosen, template())  # of a method alone, in place of that for all


@pytest.mark.parametrize("names", [("weight", "models[1].weight"), ("models[1].weight", "weight")])
def test_a_place_of_its_own_has_the_last_word_in_any_order(names: tuple[str, str]) -> None:
    values = {"weight": 0.3, "models[1].weight": 0.8}
    ordered = {name: values[name] for name in names}
    knobs = of({name: [0.1, 0.9] for name in names})
    check_space(knobs, template())
    assert weights(knobs.recipe(template(), ordered)) == [0.3, 0.8]


def test_a_method_may_bring_a_parameter_that_it_cannot_do_without() -> None:
    one = template(models=[{"model": "./code", "parameters": {"weight": 0.5}}])
    arc = {"slerp": {"t": {"from": 0.0, "to": 1.0}}}
    check_space(of({}, ["task_arithmetic", arc]), one)
    assert of({}, [arc]).recipe(one, {"method": "slerp", "slerp.t": 0.5}).parameters == {"t": 0.5}
    with pytest.raises(RecipeError, match="slerp needs 't'") as error:
        check_space(of({}, ["task_arithmetic", "slerp"]), one)
    assert error.value.where == "search.methods"
    with pytest.raises(RecipeError, match="between 0 and 1") as error:
        check_space(of({}, ["task_arithmetic", {"slerp": {"t": [3, 4]}}]), one)
    assert error.value.where == "search.methods"


def test_a_range_whose_step_gives_one_value_is_one_value() -> None:
    narrow = of({"weight": {"from": 0.5, "to": 0.55, "step": 0.1}})
    assert narrow.points() == [{"weight": 0.5}]
    check_space(narrow, template())


def test_a_value_out_of_a_methods_range_is_found_before_any_work() -> None:
    wide = of({}, [{"ties": {"density": {"from": 0.2, "to": 3.0}}}])
    with pytest.raises(RecipeError, match="between 0 and 1") as error:
        check_space(wide, template())
    assert error.value.where == "search.space.ties.density"


def test_a_knob_that_one_of_the_methods_takes_is_no_mistake() -> None:
    check_space(of({"density": [0.1, 0.2]}, ["task_arithmetic", "ties"]), template())


def test_every_search_begins_with_the_mean_and_other_scales() -> None:
    found = first_recipes(template("ties", dtype="bfloat16"))
    assert list(found) == [
        MEAN,
        *(f"sum of weights {total}" for total in ("0.5", "1.5", "2")),
    ]
    assert {recipe.merge_method for recipe in found.values()} == {"task_arithmetic"}
    assert [weights(recipe) for recipe in found.values()] == [[w] * 2 for w in (0.5, 0.25, 0.75, 1)]
    assert {recipe.dtype for recipe in found.values()} == {"bfloat16"}


def test_what_the_space_holds_is_one_of_its_trials_and_the_rest_stands_beside_it() -> None:
    inside = starts(of({"alpha": {"from": 0.1, "to": 0.9, "step": 0.1}}), template())
    assert [start.values for start in inside] == [{"alpha": 0.5}, {}, {}, {}]
    apart = of({"models[0].weight": {"from": 0, "to": 1}, "models[1].weight": [0.5, 0.75]})
    values = [start.values for start in starts(apart, template())]
    assert values[0] == {"models[0].weight": 0.5, "models[1].weight": 0.5}
    assert [bool(each) for each in values] == [True, False, True, False]
    other = starts(of({"density": [0.1, 0.2]}), template("ties"))
    assert [start.values for start in other] == [{}] * 4


def test_without_a_base_the_mean_alone_comes_first() -> None:
    models = [
        {"model": "./a", "parameters": {"weight": 1}},
        {"model": "./b", "parameters": {"weight": 1}},
    ]
    found = first_recipes(parse_recipe({"merge_method": "linear", "models": models}))
    assert [(name, recipe.merge_method) for name, recipe in found.items()] == [(MEAN, "linear")]
