"""What people bring from other tools: other names of methods and keys, options, Markdown.

Each is read as what it means, or refused with what to write here.
"""

from __future__ import annotations

import pytest

from merge_core.errors import RecipeError
from merge_core.files.strict_yaml import load_yaml
from merge_core.recipes.loading import parse_recipe
from merge_core.recipes.warnings import warnings_of

LINEAR = "merge_method: linear\nmodels:\n  - model: ./one\n  - model: ./two\n"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("TIES", "did you mean 'ties'?"),
        ("SLERP", "did you mean 'slerp'?"),
        ("DARE-TIES", "did you mean 'dare_ties'?"),
        ("Task-Arithmetic", "did you mean 'task_arithmetic'?"),
        ("average", "write 'linear'"),
        ("Mean", "write 'linear'"),
        ("dare", "write 'dare_linear' or 'dare_ties'"),
        ("frankenmerge", "write 'passthrough', with slices"),
    ],
)
def test_a_method_by_another_name_is_told_by_its_own(name: str, told: str) -> None:
    with pytest.raises(RecipeError) as raised:
        parse_recipe(LINEAR.replace("linear", name))
    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("base: ./base", ["unknown key 'base': write `base_model`"]),
        (
            "cuda: true\nlazy_unpickle: true\nout_shard_size: 5B\ncopy_tokenizer: true",
            [f"'{key}': this is an option of" for key in ("cuda", "out_shard_size")],
        ),
        ("parallel: true\nmultigpu: true", ["'parallel': this is an option", "'multigpu': this"]),
        ("weights: [0.3, 0.7]", ["'weights': write each model's own beside it"]),
        ("genome: {models: []}", ["'genome': this is a recipe for a search"]),
    ],
)
def test_keys_of_other_tools_are_refused_with_what_to_do(lines: str, told: list[str]) -> None:
    with pytest.raises(RecipeError) as raised:
        parse_recipe(f"{LINEAR}{lines}\n")
    assert [each for each in told if each not in str(raised.value)] == []


def test_a_weight_of_a_slice_that_another_tool_ignores_is_the_only_mistake() -> None:
    with pytest.raises(RecipeError) as raised:
        parse_recipe(
            "merge_method: passthrough\nslices: [{sources: [{model: ./one, layer_range: [0, 2],"
            " residual_weight: 0.5}]}]\n"
        )
    assert "write `parameters: {scale: ...}` at the source" in str(raised.value)
    assert "must not be empty" not in str(raised.value)


@pytest.mark.parametrize(
    ("parameters", "warned"),
    [
        ("{weight: [0.3, 0.7]}", True),
        ("{weight: [0, 0.5, 1]}", False),
        ("{weight: 0.5}", False),
        ("{weight: [{filter: mlp, value: 1}, {value: 0}]}", False),
    ],
)
def test_a_list_for_all_that_looks_like_one_for_each_is_told(parameters: str, warned: bool) -> None:
    found = warnings_of(parse_recipe(f"{LINEAR}parameters: {parameters}\n"))
    assert (
        any("parameters.weight is a gradient over the layers" in each for each in found) == warned
    )


def test_models_listed_by_their_names_alone_are_models() -> None:
    read = parse_recipe("merge_method: linear\nmodels: [./one, ./two]\n")
    assert read.digest == parse_recipe(LINEAR).digest


@pytest.mark.parametrize(
    "text", [f"```yaml\n{LINEAR}```\n", f"---\nlicense: mit\n---\n# Mine\n\n```yaml\n{LINEAR}```\n"]
)
def test_a_recipe_out_of_a_model_card_says_which_lines_to_copy(text: str) -> None:
    with pytest.raises(RecipeError, match="copy the lines between"):
        load_yaml(text, "recipe.yaml")
