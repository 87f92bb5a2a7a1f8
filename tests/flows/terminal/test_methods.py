"""What `mergeflow methods` shows can be used as it is."""

from __future__ import annotations

import json

import pytest
import yaml

from flows.cli import program
from flows.terminal.methods import minimal_recipe
from merge_core.errors import RecipeError
from merge_core.methods import METHODS
from merge_core.methods.post_steps import POST_STEPS
from merge_core.recipes.loading import parse_recipe


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_minimal_recipe_of_a_method_is_valid_and_lacks_nothing(name: str) -> None:
    recipe = parse_recipe(minimal_recipe(METHODS[name]))
    assert recipe.merge_method == name
    for key in set(minimal_recipe(METHODS[name])) - {"merge_method", "models"}:
        shortened = {k: v for k, v in minimal_recipe(METHODS[name]).items() if k != key}
        with pytest.raises(RecipeError):
            parse_recipe(shortened)


def test_a_method_is_shown_with_a_recipe_that_can_be_copied(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert program.run(["methods", "dare_ties"]) == 0
    shown = capsys.readouterr().out
    assert "theta_0 + lambda" in shown
    recipe = yaml.safe_load(shown.split("a minimal recipe:")[1])
    assert recipe == minimal_recipe(METHODS["dare_ties"])


@pytest.mark.parametrize("name", sorted(POST_STEPS))
def test_a_post_step_is_explained_like_a_method(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.run(["methods"]) == 0
    assert POST_STEPS[name].summary in capsys.readouterr().out
    assert program.run(["methods", name]) == 0
    shown = capsys.readouterr().out
    assert POST_STEPS[name].paper in shown
    example = yaml.safe_load(shown.split("in a recipe:")[1])
    parse_recipe(minimal_recipe(METHODS["iso_c"]) | example)
    assert program.run(["methods", name, "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in described["parameters"]] == [
        parameter.name for parameter in POST_STEPS[name].parameters
    ]
